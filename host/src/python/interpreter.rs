//! The interpreter: CPython with our adapter in its memory, and no application yet. It is made
//! once for all applications, and kept beside the tool that makes it, with its code and with the files of
//! the standard library.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use wasmtime::Engine;
use wasmtime_wizer::Wizer;

use super::built::sum_of_our_side;
use super::componentize::{self, Tools};
use super::merge;
use super::reset;
use crate::cache::Folder;
use crate::guest::compiled;
use crate::guest::compiling::{Limits, RESERVATION_BYTES, Settings};
use crate::system::sealed::Sealed;
use crate::terminal::say_while;

/// Changes with what is made here of what the tool has made.
const VERSION: u32 = 1;

const COMPONENT: &str = "interpreter.wasm";
const CODE: &str = "interpreter.cwasm";
/// The standard library, and where the interpreter finds it.
const LIBRARY_FOLDER: &str = "library";
pub(super) const LIBRARY: &str = "/python";
/// It is the only one that the tool sees as well, of the folders with these names.
const FOLDERS_OF_OURS: usize = 2;
/// Held by who makes an interpreter. Others wait.
const LOCK: &str = "interpreter.lock";
/// CPython is compiled in a tenth of it.
const LIMITS: Limits = Limits { time_max: Duration::from_secs(300), memory_bytes_max: 3 << 30 };

/// One that is there.
pub(super) struct Interpreter {
    folder: PathBuf,
}

impl Interpreter {
    /// The one that is there, or one that is made now. The code of its functions goes into `cache`.
    pub(super) fn find_or_make(tools: &Tools, cache: Option<&Path>) -> Result<Interpreter> {
        let tool = tools.find_or_install()?;
        let place = tool.folder().parent().context("a tool is in a folder")?;
        let folder = place.join(name()?);
        let found = || -> Result<Option<Interpreter>> {
            if !folder.is_dir() {
                return Ok(None);
            }
            componentize::check(&folder)?;
            Ok(Some(Interpreter { folder: folder.clone() }))
        };
        if let Some(found) = found()? {
            return Ok(found);
        }
        let lock = File::create(place.join(LOCK)).context("no interpreter can be put there")?;
        lock.lock()?;
        // Another server may have made it meanwhile.
        if let Some(found) = found()? {
            return Ok(found);
        }
        let made = Folder::open(place)?.temporary_folder()?;
        say_while("Making the Python interpreter, once for all applications, about 30 s", || {
            make(&tool, made.path(), cache)
        })?;
        fs::rename(made.keep(), &folder).context("the interpreter cannot be put in its place")?;
        found()?.context("the interpreter is gone")
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its code, which nobody can change any more.
    pub(super) fn code(&self) -> io::Result<Sealed> {
        Sealed::new("interpreter", &fs::read(self.folder.join(CODE))?)
    }
}

/// What its code is made for: the same as that of applications, so that theirs is known from it.
pub(super) fn settings() -> Settings {
    Settings { is_concurrent: false, is_small: false, reservation_bytes: RESERVATION_BYTES }
}

/// Where the interpreter finds one of the application's folders.
pub(super) fn folder_of_application(number: usize) -> String {
    format!("/{}", FOLDERS_OF_OURS + number)
}

/// The application's folder that the interpreter calls so, with the rest of the path.
pub(super) fn host_path(path: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let (number, rest) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.strip_prefix('/')?, ""));
    Some(folders.get(number.parse::<usize>().ok()?.checked_sub(FOLDERS_OF_OURS)?)?.join(rest))
}

/// What is in the folder of an interpreter.
pub(super) fn component(folder: &Path) -> io::Result<Vec<u8>> {
    fs::read(folder.join(COMPONENT))
}

pub(super) fn library(folder: &Path) -> PathBuf {
    folder.join(LIBRARY_FOLDER)
}

/// A folder's name is made of everything that its content depends on.
fn name() -> Result<String> {
    let mut settings = DefaultHasher::new();
    Engine::new(&self::settings().config())?.precompile_compatibility_hash().hash(&mut settings);
    (VERSION, crate::guest::pieces::VERSION).hash(&mut settings);
    Ok(format!("python-{}-{:016x}", &sum_of_our_side()[..16], settings.finish()))
}

fn make(tool: &componentize::Tool, folder: &Path, cache: Option<&Path>) -> Result<()> {
    let library = library(folder);
    fs::create_dir(&library)?;
    let stage = Folder::open(folder)?.temporary_folder()?;
    let component = reset::exported(&componentize::run(tool, stage.path(), &library)?)?;
    let component = merge::merged(&component).context("its libraries cannot be merged")?;
    // Only what is added for it tells what is in an instance's memory.
    let (_, with_memory_exported) = Wizer::new().instrument_component(&component)?;
    let known = cache.and_then(compiled::functions_in);
    let known = known.map_or_else(|| Sealed::new("functions", &[]), Ok)?;
    let compiled = settings().compile("interpreter", &with_memory_exported, LIMITS, Some(&known))?;
    if let (Some(functions), Some(cache)) = (compiled.functions, cache) {
        compiled::keep_functions_in(cache, &functions);
    }
    fs::write(folder.join(COMPONENT), component)?;
    io::copy(&mut File::open(compiled.code.path())?, &mut File::create(folder.join(CODE))?)?;
    Ok(())
}
