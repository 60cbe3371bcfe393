//! What the program is asked for by itself, in a process of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::guest::compiling::Settings;
use crate::python::import::Files;

/// A guest to be compiled, from standard input to standard output.
#[derive(Args, Debug)]
pub struct Compiling {
    /// The process that asks for it.
    #[arg(long)]
    pub parent: u32,

    /// Bytes of address space.
    #[arg(long)]
    pub memory: u64,

    /// Bytes of address space for each memory of the guest.
    #[arg(long)]
    pub reservation: u64,

    /// For an engine with WASI 0.3.
    #[arg(long)]
    pub concurrent: bool,

    /// The guest has little initial data.
    #[arg(long)]
    pub small: bool,

    /// Functions that were compiled before.
    #[arg(long, requires = "functions")]
    pub known_functions: Option<PathBuf>,

    /// Where they go with those of this guest.
    #[arg(long)]
    pub functions: Option<PathBuf>,
}

impl Compiling {
    pub fn functions(&self) -> Option<(&Path, &Path)> {
        self.known_functions.as_deref().zip(self.functions.as_deref())
    }

    pub fn settings(&self) -> Settings {
        Settings { is_concurrent: self.concurrent, is_small: self.small, reservation_bytes: self.reservation }
    }
}

/// A Python application to be imported: it comes on standard input.
#[derive(Args, Debug)]
pub struct Importing {
    /// The process that asks for it.
    #[arg(long)]
    pub parent: u32,

    /// The component of the interpreter.
    #[arg(long)]
    pub interpreter: PathBuf,

    /// The interpreter's code.
    #[arg(long)]
    pub code: PathBuf,

    /// The folder of the standard library.
    #[arg(long)]
    pub library: PathBuf,

    /// Where its modules are looked for.
    #[arg(long)]
    pub folder: Vec<PathBuf>,

    /// Where the component goes.
    #[arg(long)]
    pub component: PathBuf,

    /// Where what is known of it goes.
    #[arg(long)]
    pub noted: PathBuf,
}

impl Importing {
    pub fn files(&self) -> Files<'_> {
        Files {
            interpreter: &self.interpreter,
            code: &self.code,
            library: &self.library,
            folders: &self.folder,
            component: &self.component,
            noted: &self.noted,
        }
    }
}

/// A program to be run.
#[derive(Args, Debug)]
pub struct Running {
    /// The process that asks for it.
    #[arg(long)]
    pub parent: u32,

    /// The program, with its arguments.
    #[arg(last = true)]
    pub program: Vec<OsString>,
}
