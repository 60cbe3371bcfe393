//! Compiling, in a process of its own: however large a guest's functions are, it takes no
//! more time and memory than it may, and the server keeps nothing of what it took.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmparser::Parser;
use wasmtime::{Config, Engine};

use super::functions::Functions;
use super::pieces;
use crate::memory::memories::GUARD_BYTES;
use crate::system::child;
use crate::system::sealed::{Sealed, Unsealed};

/// The task's name on the command line.
pub(crate) const TASK: &str = "own-task-compile";

/// Address space for a memory whose bounds need no check: wasm32 cannot reach
/// beyond it.
pub(crate) const RESERVATION_BYTES: u64 = 4 << 30;

/// What compiling one guest may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub time_max: Duration,
    /// Address space, of which not all is used.
    pub memory_bytes_max: u64,
}

/// What code depends on beside the guest.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub is_concurrent: bool,
    /// Its initial data is copied into each instance.
    pub is_small: bool,
    /// Bytes of address space for each memory.
    pub reservation_bytes: u64,
}

/// What compiling gives.
pub(crate) struct Compiled {
    pub code: Sealed,
    /// Its functions, with those that were known; none if all were.
    pub functions: Option<Sealed>,
}

impl Settings {
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.wasm_component_model_async(self.is_concurrent);
        config.concurrency_support(self.is_concurrent);
        config.memory_reservation(self.reservation_bytes).gc_heap_reservation(self.reservation_bytes);
        config.memory_guard_size(GUARD_BYTES);
        config.memory_init_cow(!self.is_small);
        config
    }

    /// Compiles a guest in this process. Functions that are known are not compiled again.
    fn compile_here(&self, guest: &[u8], functions: Option<Arc<Functions>>) -> Result<Vec<u8>> {
        let mut config = self.config();
        if let Some(functions) = functions {
            config.enable_incremental_compilation(functions)?;
        }
        let engine = Engine::new(&config)?;
        let compile = |guest: &[u8]| match Parser::is_core_wasm(guest) {
            true => engine.precompile_module(guest),
            false => engine.precompile_component(guest),
        };
        match pieces::in_pieces(guest) {
            Ok(in_pieces) => Ok(compile(&in_pieces)?),
            // The compiler says what is wrong by its place in the guest's own file.
            Err(error) => Err(compile(guest).err().map_or_else(|| error.into(), Into::into)),
        }
    }

    /// Compiles a guest in a process of its own. Its code has this name, which is shown where the
    /// system lists what is mapped. With those that are `known`, its functions are given, too.
    pub(crate) fn compile(
        &self,
        name: &str,
        guest: &[u8],
        limits: Limits,
        known: Option<&Sealed>,
    ) -> Result<Compiled> {
        match self.try_compile(name, guest, limits, known) {
            // They take room, and may be out of that process's reach.
            Err(_) if known.is_some() => self.try_compile(name, guest, limits, None),
            compiled => compiled,
        }
    }

    fn try_compile(
        &self,
        name: &str,
        guest: &[u8],
        limits: Limits,
        known: Option<&Sealed>,
    ) -> Result<Compiled> {
        if cfg!(any(test, fuzzing)) {
            // That process would be started as this one, which is no server.
            let code = Sealed::new(name, &self.compile_here(guest, None)?)?;
            return Ok(Compiled { code, functions: None });
        }
        let from = Sealed::new("guest", guest)?;
        from.file().rewind()?;
        let code = Unsealed::new(name)?;
        let functions = known.map(|_| Unsealed::new("functions")).transpose()?;
        let mut program = child::own_program(TASK);
        // The allocator would reserve a gigabyte at once, which counts.
        program.env("MIMALLOC_ARENA_RESERVE", "32MiB");
        program.arg("--memory").arg(limits.memory_bytes_max.to_string());
        program.arg("--reservation").arg(self.reservation_bytes.to_string());
        program.args(self.is_concurrent.then_some("--concurrent"));
        program.args(self.is_small.then_some("--small"));
        if let (Some(known), Some(functions)) = (known, &functions) {
            program.arg("--known-functions").arg(child::path_of(known.file()));
            program.arg("--functions").arg(child::path_of(functions.file()));
        }
        program.stdin(Stdio::from(from.into_file())).stdout(Stdio::from(code.file().try_clone()?));
        let output = child::run(program, limits.time_max);
        let output = output.context("compiling it did not go well (--compile-timeout)")?;
        ensure!(output.status.success(), "{}", why(&output, limits));
        let functions = functions.and_then(|functions| functions.seal().ok());
        let functions =
            functions.filter(|functions| functions.file().metadata().is_ok_and(|it| it.len() > 0));
        Ok(Compiled { code: code.seal()?, functions })
    }
}

fn why(output: &Output, limits: Limits) -> String {
    let said = child::said(output);
    // An allocation that fails ends it; so does a thread for which there is no stack.
    if ["memory allocation of", "thread pool has not been initialized"].iter().any(|it| said.contains(it)) {
        return format!(
            "compiling it takes more memory than --compile-memory, {} MiB",
            limits.memory_bytes_max >> 20
        );
    }
    match output.status.code() {
        // It says what it is itself, too.
        Some(1) => said.strip_prefix("wasm-serve: ").unwrap_or(&said).to_owned(),
        _ => format!("the compiler failed, {}: {said}", child::how(output.status)),
    }
}

/// What the process does: the guest comes on standard input, and the code goes to
/// standard output. `parent` has started the process. It may have given two files: one with
/// functions that are known, and one for all.
pub(crate) fn run(
    parent: u32,
    settings: Settings,
    memory_bytes_max: u64,
    functions: Option<(&Path, &Path)>,
) -> Result<ExitCode> {
    child::begin(parent)?;
    child::dies_first();
    limit(Resource::As, memory_bytes_max)?;
    // An end for want of memory is an end by a signal.
    limit(Resource::Core, 0)?;
    let mut guest = Vec::new();
    io::stdin().read_to_end(&mut guest)?;
    let known = functions.map(|(known, _)| fs::read(known).map(Functions::new)).transpose()?;
    match settings.compile_here(&guest, known.clone()) {
        Ok(code) => File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(&code)?,
        Err(error) => bail!("{error:#}"),
    }
    if let (Some((_, into)), Some(known)) = (functions, known) {
        // The code is there. What could not be written of its functions is compiled again next time.
        let _ = File::create(into).and_then(|file| known.write_to(&mut BufWriter::new(file)));
    }
    Ok(ExitCode::SUCCESS)
}

/// The server itself may have a lower limit already.
fn limit(resource: Resource, max: u64) -> Result<()> {
    let max = getrlimit(resource).maximum.map_or(max, |before| before.min(max));
    Ok(setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) })?)
}
