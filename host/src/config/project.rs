//! What is asked for with a project: the folder in which somebody writes a guest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::cache::CacheOptions;
use super::paths::{check_file, check_folder, check_folder_of};
use super::python::PythonOptions;
use super::values;
use crate::python::{Application, HashSeed, Tools};

/// A language for which there is a starting project.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "lower")]
pub enum Language {
    AssemblyScript,
    C,
    Go,
    JavaScript,
    /// JavaScript for WASI 0.3, by a smaller engine.
    #[value(name = "javascript-quickjs")]
    JavaScriptQuickJs,
    Python,
    Rust,
}

/// A project to be begun.
#[derive(Args, Debug)]
pub struct New {
    /// The language.
    #[arg(long, value_name = "LANG")]
    pub lang: Language,

    /// The folder; it is made, or must be empty.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// What is to be built.
#[derive(Args, Debug)]
pub struct Build {
    /// A folder with a script `build`, as `new` writes one.
    #[arg(value_name = "DIR", conflicts_with = "wsgi_file", required_unless_present = "wsgi_file")]
    pub dir: Option<PathBuf>,

    /// A Python file with a WSGI application.
    #[arg(long, value_name = "FILE", requires = "output")]
    pub wsgi_file: Option<PathBuf>,

    /// The guest's file [default: DIR/app.wasm].
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Let the application see an environment variable while it is imported; without a
    /// value, this program's own. Repeatable. What it makes of it stays in the component,
    /// so a server is to have it with the same value.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::variable, requires = "wsgi_file")]
    pub env: Vec<(String, String)>,

    /// Build with the interpreter that --wsgi-file of a server has, in a second. All that
    /// is built so has one seed of `hash()`: who has one of the files knows that of all.
    #[arg(long, requires = "wsgi_file")]
    pub share_hash_seed: bool,

    #[command(flatten)]
    pub python: PythonOptions,

    #[command(flatten)]
    pub cache: CacheOptions,
}

/// A project to be served while it is worked on.
#[derive(Args, Debug)]
pub struct Dev {
    /// A folder with a script `build`, as `new` writes one.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Options of the server, such as --http-socket or --dir.
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<OsString>,
}

/// A core module to be made a component.
#[derive(Args, Debug)]
pub struct Componentize {
    /// The core module, whose imports and exports have the names of the component
    /// model's canonical ABI.
    #[arg(value_name = "CORE.wasm")]
    pub module: PathBuf,

    /// The component.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// What `Build` asks for.
pub enum Made<'a> {
    Project { dir: &'a Path, output: PathBuf },
    Python { application: Application, tools: Tools, output: &'a Path },
}

impl Build {
    pub fn made(&self) -> Made<'_> {
        match (&self.dir, &self.wsgi_file, &self.output) {
            (_, Some(file), Some(output)) => {
                let mut application = self.python.application(file, values::variables(&self.env));
                let tools = self.python.tools(&self.cache);
                if !self.share_hash_seed {
                    application.seed = HashSeed::Own;
                }
                Made::Python { application, tools, output }
            }
            (Some(dir), _, output) => {
                let output = output.clone().unwrap_or_else(|| dir.join("app.wasm"));
                Made::Project { dir, output }
            }
            _ => unreachable!("the command line is not taken without a folder, or a file and the output"),
        }
    }

    /// What can be checked before anything is made.
    pub fn check(&self) -> Result<()> {
        match &self.wsgi_file {
            Some(file) => self.python.check(file)?,
            None => self.python.check_unused()?,
        }
        if let Some(dir) = &self.dir {
            check_folder("", dir)?;
        }
        match &self.output {
            Some(output) => check_folder_of("--output ", output),
            None => Ok(()),
        }
    }
}

impl Componentize {
    pub fn check(&self) -> Result<()> {
        check_file("", &self.module)?;
        check_folder_of("--output ", &self.output)
    }
}

/// This program, for scripts that need it.
pub fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("where this program is cannot be found out")
}
