//! The program `wasm-serve`: arguments in, exit code out.

use std::process::ExitCode;

use clap::error::ErrorKind;
use wasm_serve::commands::inspect;
use wasm_serve::commands::{build, componentize, dev, new};
use wasm_serve::config::{CommandLine, Task};
use wasm_serve::guest::compiling;
use wasm_serve::memory::allocator::Mimalloc;
use wasm_serve::memory::charging::Charging;
use wasm_serve::server;
use wasm_serve::system::confined;
use wasm_serve::terminal::say;

#[global_allocator]
static ALLOCATOR: Charging<Mimalloc> = Charging(Mimalloc);

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let command_line = match CommandLine::read(std::env::args_os()) {
        Ok(command_line) => command_line,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let CommandLine { task, serve } = command_line;
    let checked = match &task {
        Some(Task::Build(options)) => options.check(),
        Some(Task::Dev(options)) => options.check(),
        Some(Task::Componentize(options)) => options.check(),
        Some(Task::Inspect(options)) => options.check(),
        Some(Task::New(_) | Task::Compile(_) | Task::Confined(_)) => Ok(()),
        None => serve.check(),
    };
    if let Err(error) = checked {
        say(format_args!("wasm-serve: {error:#}"));
        return ExitCode::from(USAGE);
    }
    let done = match task {
        Some(Task::New(options)) => new::run(&options),
        Some(Task::Build(options)) => build::run(&options),
        Some(Task::Dev(options)) => dev::run(&options),
        Some(Task::Componentize(options)) => componentize::run(&options),
        Some(Task::Inspect(options)) => Ok(inspect::run(&options)),
        Some(Task::Compile(options)) => compiling::run(options.parent, options.settings(), options.memory),
        Some(Task::Confined(options)) => {
            confined::run(options.parent, options.writable.as_deref(), &options.program)
        }
        None => server::run(&serve),
    };
    done.unwrap_or_else(|error| {
        say(format_args!("wasm-serve: {error:#}"));
        ExitCode::FAILURE
    })
}
