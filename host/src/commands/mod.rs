//! What can be done beside serving, a file for each.

mod build;
mod calls;
pub(crate) mod componentize;
mod dev;
pub(crate) mod inspect;
mod new;
mod watched;

use std::process::ExitCode;

use anyhow::Result;

use crate::config::Task;
use crate::guest::compiling;
use crate::python::import;
use crate::system::program;

/// Does one of these.
pub fn run(task: &Task) -> Result<ExitCode> {
    match task {
        Task::New(options) => new::run(options),
        Task::Build(options) => build::run(options),
        Task::Calls(options) => calls::run(options),
        Task::Dev(options) => dev::run(options),
        Task::Componentize(options) => componentize::run(options),
        Task::Inspect(options) => Ok(inspect::run(options)),
        Task::Compile(options) => {
            compiling::run(options.parent, options.settings(), options.memory, options.functions())
        }
        Task::Import(options) => import::run(options.parent, &options.files()),
        Task::Run(options) => program::run(options.parent, &options.program),
    }
}
