//! The program `wasm-serve`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use wasm_serve::config::Options;
use wasm_serve::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    if let Err(error) = options.check() {
        eprintln!("wasm-serve: {error:#}");
        return ExitCode::from(USAGE);
    }
    match server::run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wasm-serve: {error:#}");
            ExitCode::FAILURE
        }
    }
}
