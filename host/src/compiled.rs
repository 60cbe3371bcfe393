//! Compiled guests, kept as files, so that the second start is immediate. A file is
//! mapped, not read: the code of a large guest takes no time until it is used, and
//! memory once for all workers and servers that use it.
//!
//! Whoever can write into this folder can make the server run anything, as with
//! every cache of compiled code.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::logging::{Log, say_while};

/// Files that are kept; of more, the longest unused go.
const FILES_MAX: usize = 32;
/// Compiling such a guest takes so long that a person who waits wants to know.
const LARGE_BYTES: usize = 1 << 20;
const EXTENSION: &str = "cwasm";

/// The folder of compiled guests.
pub struct Kept {
    folder: PathBuf,
}

/// A guest's code, for all engines that compile alike.
pub enum Code {
    File(PathBuf),
    /// No file could be written.
    Memory(Vec<u8>),
}

impl Code {
    /// The code as a component of `engine`.
    pub fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: this process, or one that may write into the folder of this user's
        // compiled guests, made it with `precompile_component`; wasmtime checks its
        // own version and settings, which are in the file.
        match self {
            Code::File(file) => unsafe { Component::deserialize_file(engine, file) },
            Code::Memory(code) => unsafe { Component::deserialize(engine, code) },
        }
    }
}

impl Kept {
    /// Opens the folder. Without it the server works, but starts slowly: so one that
    /// cannot be used is only a line in the log.
    pub fn open(folder: &Path, log: &Log) -> Option<Kept> {
        match fs::create_dir_all(folder) {
            Ok(()) => Some(Kept { folder: folder.to_owned() }),
            Err(error) => {
                cannot_be_used(folder, &error, log);
                None
            }
        }
    }

    /// The code that was compiled of `guest` for engines such as this.
    fn find(&self, engine: &Engine, guest: &[u8]) -> Option<Code> {
        let path = self.path(engine, guest);
        // Also what shows that it was used.
        File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .ok()?;
        Some(Code::File(path))
    }

    /// Keeps it. Another process may be doing the same: a file has its whole content
    /// when it gets its name.
    fn keep(&self, engine: &Engine, guest: &[u8], code: &[u8]) -> io::Result<PathBuf> {
        let path = self.path(engine, guest);
        let unfinished = path.with_extension(format!("{}", std::process::id()));
        fs::write(&unfinished, code)?;
        fs::rename(&unfinished, &path)?;
        self.remove_the_longest_unused()?;
        Ok(path)
    }

    /// A file's name is made of everything that its content depends on.
    fn path(&self, engine: &Engine, guest: &[u8]) -> PathBuf {
        let mut sum = Sha256::new();
        sum.update(guest);
        let mut settings = SettingsSum(sum);
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut settings);
        self.folder.join(format!("{:x}.{EXTENSION}", settings.0.finalize()))
    }

    fn remove_the_longest_unused(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push((path.metadata()?.modified()?, path));
            }
        }
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        files[..surplus].iter().try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// Feeds what an engine says of its settings to the sum.
struct SettingsSum(Sha256);

impl std::hash::Hasher for SettingsSum {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("only the whole sum is asked for")
    }
}

/// Compiles `guest`, unless it is kept.
pub fn compile(
    engine: &Engine,
    guest: &[u8],
    kept: Option<&Kept>,
    log: &Log,
) -> wasmtime::Result<(Code, Component)> {
    if let Some(code) = kept.and_then(|kept| kept.find(engine, guest)) {
        // One that does not fit, or is damaged so that wasmtime sees it, is made anew.
        if let Ok(component) = code.component(engine) {
            return Ok((code, component));
        }
    }
    let bytes = match guest.len() {
        0..LARGE_BYTES => engine.precompile_component(guest)?,
        _ => say_while("Compiling the guest, some seconds", || engine.precompile_component(guest))?,
    };
    let code = match kept.map(|kept| (kept, kept.keep(engine, guest, &bytes))) {
        Some((_, Ok(path))) => Code::File(path),
        Some((kept, Err(error))) => {
            cannot_be_used(&kept.folder, &error, log);
            Code::Memory(bytes)
        }
        None => Code::Memory(bytes),
    };
    let component = code.component(engine)?;
    Ok((code, component))
}

fn cannot_be_used(folder: &Path, error: &io::Error, log: &Log) {
    log.server(format_args!(
        "--cache {}: cannot be used, the guest is compiled at every start: {error}",
        folder.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component of nothing but a type.
    fn guest(number: usize) -> Vec<u8> {
        wat::parse_str(format!("(component (type (list u{})))", [8, 16, 32, 64][number])).unwrap()
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let folder = std::env::temp_dir().join(format!("wasm-serve-compiled-{}", std::process::id()));
        let log = Log::open(None).unwrap();
        let kept = Kept::open(&folder, &log);
        let engine = Engine::default();
        let compiled = || compile(&engine, &guest(0), kept.as_ref(), &log).unwrap().0;
        let Code::File(path) = compiled() else { panic!("it was not kept") };
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        compiled();
        assert_eq!(fs::read(&path).unwrap(), whole);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let folder = std::env::temp_dir().join(format!("wasm-serve-unused-{}", std::process::id()));
        let kept = Kept::open(&folder, &Log::open(None).unwrap()).unwrap();
        for number in 0..=FILES_MAX {
            let file = File::create(folder.join(format!("{number}.{EXTENSION}"))).unwrap();
            let age = std::time::Duration::from_secs(number as u64 + 1);
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        kept.remove_the_longest_unused().unwrap();
        assert!(!folder.join(format!("{FILES_MAX}.{EXTENSION}")).exists());
        assert!(folder.join(format!("{}.{EXTENSION}", FILES_MAX - 1)).exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
