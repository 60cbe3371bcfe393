//! The program `wasm-serve`: arguments in, exit code out.

use std::process::ExitCode;

use clap::error::ErrorKind;
use wasm_serve::commands::inspect;
use wasm_serve::commands::{build, componentize, dev, new};
use wasm_serve::config::{CommandLine, Task, Work};
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
    let work = match command_line.check() {
        Ok(work) => work,
        Err(error) => {
            say(format_args!("wasm-serve: {error:#}"));
            return ExitCode::from(USAGE);
        }
    };
    let done = match work {
        Work::Serve(settings) => server::run(&settings),
        Work::Task(Task::New(options)) => new::run(&options),
        Work::Task(Task::Build(options)) => build::run(&options),
        Work::Task(Task::Dev(options)) => dev::run(&options),
        Work::Task(Task::Componentize(options)) => componentize::run(&options),
        Work::Task(Task::Inspect(options)) => Ok(inspect::run(&options)),
        Work::Task(Task::Compile(options)) => {
            compiling::run(options.parent, options.settings(), options.memory)
        }
        Work::Task(Task::Confined(options)) => {
            confined::run(options.parent, options.writable.as_deref(), &options.program)
        }
    };
    done.unwrap_or_else(|error| {
        say(format_args!("wasm-serve: {error:#}"));
        ExitCode::FAILURE
    })
}
