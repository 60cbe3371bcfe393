//! A program of others that ends with this one, whatever becomes of it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::child;

/// The task's name on the command line.
pub(crate) const TASK: &str = "own-task-run";

pub(crate) fn ending_with_this(program: &str) -> Command {
    let mut command = child::own_program(TASK);
    command.arg("--").arg(program);
    command
}

/// What the process does, which `parent` has started: it becomes the program, which is
/// named with its arguments.
pub(crate) fn run(parent: u32, program: &[OsString]) -> Result<ExitCode> {
    child::begin(parent)?;
    let (program, arguments) = program.split_first().context("a program must be named")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("`{}` cannot be run", program.display()))
}
