//! The program `wasm-serve`: arguments in, exit code out.

use std::process::ExitCode;

use clap::error::ErrorKind;
use wasm_serve::config::{CommandLine, Work};
use wasm_serve::memory::allocator::Mimalloc;
use wasm_serve::memory::charging::Charging;
use wasm_serve::{commands, say, server};

#[global_allocator]
static ALLOCATOR: Charging<Mimalloc> = Charging(Mimalloc);

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

#[allow(clippy::disallowed_methods, reason = "here the arguments come in")]
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
        Work::Task(task) => commands::run(&task),
    };
    done.unwrap_or_else(|error| {
        say(format_args!("wasm-serve: {error:#}"));
        ExitCode::FAILURE
    })
}
