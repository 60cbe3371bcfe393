//! The command line: what is to be done, and how.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::calls::Calls;
use super::hints;
use super::options::{MEMORY_LIMIT, Options};
use super::paths::check_file;
use super::project::{Build, Componentize, Dev, New};
use super::serve::Settings;
use super::tasks::{Compiling, Importing, Running};
use super::values::Bytes;
use crate::guest::compiling;
use crate::python::import;
use crate::system::program;

/// Serve HTTP with a WebAssembly guest, each call behind a wall of its own. A guest is a
/// component, which is a WebAssembly file that declares what it imports and exports, or a
/// program. A core is the place for one call at a time: neither a thread nor a CPU.
#[derive(Parser, Debug)]
#[command(
    name = "wasm-serve",
    version,
    max_term_width = 100,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = AFTER_HELP
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub(crate) task: Option<Task>,

    #[command(flatten)]
    pub(crate) serve: Options,
}

impl CommandLine {
    /// Reads one, with the program's name. The error says what may have been meant.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(arguments).map_err(|mut error| {
            hints::add(&mut error);
            error
        })
    }

    /// What can be checked before anything is made. The error says what to change.
    pub fn check(self) -> Result<Work> {
        match self.task {
            Some(task) => task.check().map(|()| Work::Task(task)),
            None => self.serve.check().map(|settings| Work::Serve(Box::new(settings))),
        }
    }
}

/// What is to be done, checked.
pub enum Work {
    Task(Task),
    Serve(Box<Settings>),
}

/// What can be done instead of serving.
#[derive(Subcommand, Debug)]
pub enum Task {
    /// Begin a project: a folder with a guest in the language of your choice.
    New(New),
    /// Build a project, or make a component of a Python file, and do not serve it.
    Build(Build),
    /// Build a project and serve it; build and swap it whenever it changes.
    Dev(Dev),
    /// Make a component of a core module, as compilers of C, Go or AssemblyScript make it.
    Componentize(Componentize),
    /// Tell what a file is, what it needs and would get, and whether it can be served.
    Inspect(Inspect),
    /// See and handle deferred calls in a store: list, show, cancel, retry, purge.
    Calls(Calls),
    #[command(hide = true, name = compiling::TASK)]
    Compile(Compiling),
    #[command(hide = true, name = import::TASK)]
    Import(Importing),
    #[command(hide = true, name = program::TASK)]
    Run(Running),
}

impl Task {
    fn check(&self) -> Result<()> {
        match self {
            Task::Build(options) => options.check(),
            Task::Calls(options) => options.check(),
            Task::Dev(options) => options.check(),
            Task::Componentize(options) => options.check(),
            Task::Inspect(options) => options.check(),
            Task::New(_) | Task::Compile(_) | Task::Import(_) | Task::Run(_) => Ok(()),
        }
    }
}

/// What is to be told about.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 if the file can be served, 1 if not, 64 for a usage error.")]
pub struct Inspect {
    /// Any file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The memory that one instance is to have, in bytes; K, M and G multiply by 1024.
    #[arg(long, value_name = "BYTES", default_value = MEMORY_LIMIT)]
    pub memory_limit: Bytes,
}

impl Inspect {
    pub fn check(&self) -> Result<()> {
        check_file("", &self.file)
    }
}

const AFTER_HELP: &str = "\
Examples: wasm-serve --guest hello.wasm --cores 2
          wasm-serve --wsgi-file app.py --http-socket :9090

Signals: SIGTERM and SIGINT stop when the work in hand is done, a second one at
once; SIGHUP loads the guest's file anew and swaps it without dropping a request;
SIGUSR1 reopens the log file. Exit codes: 0 after a clean stop, 64 for a usage
error, 1 otherwise.";
