//! What can be done beside serving, a file for each.

mod build;
pub(crate) mod componentize;
mod dev;
pub(crate) mod inspect;
mod new;
mod watched;

use std::process::ExitCode;

use anyhow::Result;

use crate::config::Task;
use crate::guest::compiling;
use crate::system::confined;

/// Does one of these.
pub fn run(task: &Task) -> Result<ExitCode> {
    match task {
        Task::New(options) => new::run(options),
        Task::Build(options) => build::run(options),
        Task::Dev(options) => dev::run(options),
        Task::Componentize(options) => componentize::run(options),
        Task::Inspect(options) => Ok(inspect::run(options)),
        Task::Compile(options) => {
            compiling::run(options.parent, options.settings(), options.memory, options.functions())
        }
        Task::Confined(options) => {
            confined::run(options.parent, options.writable.as_deref(), &options.program)
        }
    }
}
