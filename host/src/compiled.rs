//! Compiled guests, kept as files, so that the second start is immediate. A file is
//! mapped, not read: the code of a large guest takes no time until it is used, and
//! memory once for all workers and servers that use it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Cache;
use crate::logging::{Log, say_while};

const FILES_MAX: usize = 32;
/// Compiling such a guest takes so long that a person who waits wants to know.
const LARGE_BYTES: usize = 1 << 20;

/// A guest's code, for all engines that compile alike.
pub enum Code {
    File(PathBuf),
    /// No file could be written.
    Memory(Vec<u8>),
}

impl Code {
    /// The code as a component of `engine`.
    pub fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: this process made it with `precompile_component`, or another one of the
        // same user, since nobody else can write into the cache; wasmtime checks that its
        // own version and the engine's settings are the same.
        match self {
            Code::File(file) => unsafe { Component::deserialize_file(engine, file) },
            Code::Memory(code) => unsafe { Component::deserialize(engine, code) },
        }
    }
}

/// The folder of compiled guests.
pub struct Kept {
    cache: Cache,
    folder: PathBuf,
}

impl Kept {
    /// Opens the folder. Without it the server works, but starts slowly: so one that
    /// cannot be used is only a line in the log.
    pub fn open(folder: &Path, log: &Log) -> Option<Kept> {
        match Cache::open(folder, FILES_MAX) {
            Ok(cache) => Some(Kept { cache, folder: folder.to_owned() }),
            Err(error) => {
                cannot_be_used(folder, &error, log);
                None
            }
        }
    }

    fn find(&self, name: &str) -> Option<Code> {
        self.cache.note_use(name).then(|| Code::File(self.cache.path(name)))
    }

    fn keep(&self, name: &str, code: Vec<u8>, log: &Log) -> Code {
        match self.cache.keep(name, &code) {
            Ok(path) => Code::File(path),
            Err(error) => {
                cannot_be_used(&self.folder, &error, log);
                Code::Memory(code)
            }
        }
    }
}

fn cannot_be_used(folder: &Path, error: &io::Error, log: &Log) {
    log.server(format_args!(
        "--cache {}: cannot be used, the guest is compiled at every start: {error}",
        folder.display()
    ));
}

/// Compiles `guest`, unless it is kept.
pub fn compile(
    engine: &Engine,
    guest: &[u8],
    kept: Option<&Kept>,
    log: &Log,
) -> wasmtime::Result<(Code, Component)> {
    let name = name(engine, guest);
    if let Some(code) = kept.and_then(|kept| kept.find(&name)) {
        // One that does not fit, or is damaged so that wasmtime sees it, is made anew.
        if let Ok(component) = code.component(engine) {
            return Ok((code, component));
        }
    }
    let code = match guest.len() {
        0..LARGE_BYTES => engine.precompile_component(guest)?,
        _ => say_while("Compiling the guest, some seconds", || engine.precompile_component(guest))?,
    };
    let code = match kept {
        Some(kept) => kept.keep(&name, code, log),
        None => Code::Memory(code),
    };
    let component = code.component(engine)?;
    Ok((code, component))
}

/// A file's name is made of everything that its content depends on.
fn name(engine: &Engine, guest: &[u8]) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    format!("{:x}-{:016x}.cwasm", Sha256::digest(guest), settings.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_damaged_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(None).unwrap();
        let kept = Kept::open(folder.path(), &log);
        let engine = Engine::default();
        let guest = wat::parse_str("(component (type (list u8)))").unwrap();
        let compiled = || compile(&engine, &guest, kept.as_ref(), &log).unwrap().0;
        let Code::File(path) = compiled() else { panic!("it was not kept") };
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        compiled();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
