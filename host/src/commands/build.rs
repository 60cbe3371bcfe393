//! A project: the folder in which somebody writes a guest. Its script `build` makes the
//! guest, in whatever language: `build OUT.wasm`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::config::{Build, CacheOptions, Made, own_program};
use crate::python;
use crate::system::file;
use crate::terminal::say;

/// `wasm-serve build`
pub(super) fn run(options: &Build) -> Result<ExitCode> {
    match options.made() {
        Made::Project { dir, output } => {
            let folder = tempfile::tempdir().context("no folder to build in can be made")?;
            let made = folder.path().join("app.wasm");
            let status = script(dir, &made, &options.cache)?.status();
            let status = status.with_context(|| format!("{}/build: cannot be run", dir.display()))?;
            ensure!(status.success(), "{}/build: failed, {status}", dir.display());
            let guest = std::fs::read(&made);
            let guest = guest.with_context(|| format!("{}/build: made no file", dir.display()))?;
            write(&output, &guest)?;
        }
        Made::Python { application, tools, output } => {
            let cache = options.cache.folder();
            let component = python::component(&application, &tools, cache.as_deref(), &|told| say(told))?;
            write(output, &component.bytes)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What runs the script of the project in `dir`.
pub(super) fn script(dir: &Path, output: &Path, cache: &CacheOptions) -> Result<Command> {
    let dir = std::path::absolute(dir)?;
    let script = dir.join("build");
    if !script.is_file() {
        bail!(
            "{}: has no script `build`; `wasm-serve new --lang LANG DIR` begins a project with one, and for a Python file there is --wsgi-file",
            dir.display()
        );
    }
    let mut command = Command::new(script);
    command.arg(std::path::absolute(output)?).current_dir(dir).env("WASM_SERVE", own_program()?);
    command.envs(cache.variables());
    Ok(command)
}

/// Puts a guest in its place at once: a server may be reading the old one.
pub(super) fn write(output: &Path, guest: &[u8]) -> Result<()> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written = || {
        let mut file = file::unfinished().tempfile_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(guest)?;
        file.persist(output)?;
        Ok::<(), std::io::Error>(())
    };
    written().with_context(|| format!("--output {}: cannot be written", output.display()))
}
