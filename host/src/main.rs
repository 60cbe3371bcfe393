//! The program `wasm-serve`: arguments in, exit code out.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;
use wasm_serve::config::{Build, CommandLine, Task};
use wasm_serve::{inspect, python, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
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
        Some(Task::Build(build)) => build.check(),
        Some(Task::Inspect(_)) => Ok(()),
        None => serve.check(),
    };
    if let Err(error) = checked {
        eprintln!("wasm-serve: {error:#}");
        return ExitCode::from(USAGE);
    }
    let done = match task {
        Some(Task::Build(build)) => make(&build),
        Some(Task::Inspect(options)) => Ok(inspect::run(&options)),
        None => server::run(&serve),
    };
    done.unwrap_or_else(|error| {
        eprintln!("wasm-serve: {error:#}");
        ExitCode::FAILURE
    })
}

/// `wasm-serve build`
fn make(build: &Build) -> anyhow::Result<ExitCode> {
    let cache = build.cache.folder().context("--cache DIR is needed: there is no folder of the user's")?;
    let component = python::component(&build.application(), &build.tools(), &cache)?;
    // Not copied, which would keep the mode: what is cached is for this user alone.
    let component = std::fs::read(component).context("--cache: cannot be read")?;
    let output = build.output.display();
    std::fs::write(&build.output, component)
        .with_context(|| format!("--output {output}: cannot be written"))?;
    Ok(ExitCode::SUCCESS)
}
