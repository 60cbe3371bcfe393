//! The interpreter: CPython with our adapter in its memory, and no application yet. It is made
//! once for all applications, and kept beside the tool that makes it, with its code and with the files of
//! the standard library.

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;
use walkdir::WalkDir;
use wasmtime::Engine;
use wasmtime_wizer::Wizer;

use super::built::sum_of_our_side;
use super::componentize::{self, Tools};
use super::merge;
use super::reset;
use crate::cache::{ANOTHER, Cache, Folder};
use crate::guest::compiling::{Limits, RESERVATION_BYTES, Settings};
use crate::guest::{kept_code, pieces};
use crate::system::sealed::Sealed;
use crate::terminal::say_while;

/// What the names of their folders begin with.
const NAME: &str = "python-";
/// One of another version that was not used for this time goes when one is made.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const COMPONENT: &str = "interpreter.wasm";
const CODE: &str = "interpreter.cwasm";
/// The standard library, and where the interpreter finds it.
const LIBRARY_FOLDER: &str = "library";
pub(super) const LIBRARY: &str = "/python";
/// Folders that the interpreter calls by lower numbers than the application's: `FOLDERS` in the adapter's
/// `report.py` has the first of those.
const FOLDERS_OF_OURS: usize = 2;
/// Files of an extension.
const FILES_MAX: usize = 4;
/// Held by who makes an interpreter. Others wait.
const LOCK: &str = "interpreter.lock";
/// CPython is compiled in a tenth of it.
const LIMITS: Limits = Limits { time_max: Duration::from_secs(300), memory_bytes_max: 3 << 30 };

/// One that is there.
pub(super) struct Interpreter {
    folder: PathBuf,
    /// The component, and its code with what tells of its memory: nobody can change them any more.
    pub component: Sealed,
    pub code: Sealed,
    /// Its folder goes with it, if it is for one application.
    temporary: Option<TempDir>,
}

impl Interpreter {
    /// One for one application, in a folder that goes with it. What CPython draws when it starts is this
    /// one's own.
    pub(super) fn make_for_one(
        tools: &Tools,
        cache: Option<&Path>,
        tell: &dyn Fn(&str),
    ) -> Result<Interpreter> {
        let tool = tools.find_or_install()?;
        let mut opened = places(tools, cache).filter_map(|place| Folder::open(place).ok());
        let folder = opened.next().with_context(|| no_place(&tool))?;
        let made = folder.temporary_folder()?;
        say_while("Making a Python interpreter for this application, about 20 s", || {
            make(&tool, made.path(), cache)
        })?;
        let mut interpreter = Interpreter::find(made.path(), tell).context("the interpreter is gone")?;
        interpreter.temporary = Some(made);
        Ok(interpreter)
    }

    /// The one that is there, or one that is made now: beside the tool, or in `cache` where nobody may write
    /// there. The code of its functions goes into `cache`.
    pub(super) fn find_or_make(
        tools: &Tools,
        cache: Option<&Path>,
        tell: &dyn Fn(&str),
    ) -> Result<Interpreter> {
        let name = name()?;
        let find = |place: &Path| Interpreter::find(&place.join(&name), tell);
        if let Some(found) = places(tools, cache).find_map(find) {
            return Ok(found);
        }
        let tool = tools.find_or_install()?;
        let opened = places(tools, cache)
            .find_map(|place| Some((Folder::open(place).ok()?, lock(&place.join(LOCK)).ok()?, place)));
        let (folder, _lock, place) = opened.with_context(|| no_place(&tool))?;
        // Another server may have made it meanwhile.
        if let Some(found) = find(place) {
            return Ok(found);
        }
        remove_unused(place);
        let made = folder.temporary_folder()?;
        say_while("Making the Python interpreter, once for all applications, about 30 s", || {
            make(&tool, made.path(), cache)
        })?;
        let end = place.join(&name);
        // What is there has been found wanting.
        let _ = fs::remove_dir_all(&end);
        fs::rename(made.path(), &end).context("the interpreter cannot be put in its place")?;
        let _ = made.keep();
        find(place).context("the interpreter is gone")
    }

    /// One that is as it was made, and that nobody else can have changed.
    fn find(folder: &Path, tell: &dyn Fn(&str)) -> Option<Interpreter> {
        if !folder.is_dir() {
            return None;
        }
        let whole = || -> Result<Option<Interpreter>> {
            componentize::check(folder)?;
            let kept = Cache::open(folder, FILES_MAX)?;
            let find = |name| kept.find_sealed(name).map_err(|unfit| anyhow!("{unfit}"));
            let (Some(component), Some(code)) = (find(COMPONENT)?, find(CODE)?) else { return Ok(None) };
            Ok(Some(Interpreter { folder: folder.to_owned(), component, code, temporary: None }))
        };
        whole().unwrap_or_else(|unfit| {
            tell(&format!("{unfit:#}; the interpreter is made anew"));
            None
        })
    }

    /// The standard library.
    pub(super) fn library(&self) -> PathBuf {
        self.folder.join(LIBRARY_FOLDER)
    }
}

/// Where one is looked for, and put.
fn places<'a>(tools: &'a Tools, cache: Option<&'a Path>) -> impl Iterator<Item = &'a Path> {
    tools.folder.as_deref().into_iter().chain(cache)
}

fn no_place(tool: &componentize::Tool) -> String {
    format!("the interpreter cannot be put into {}{ANOTHER}", tool.folder().with_file_name("").display())
}

/// Waits for others who make an interpreter there.
fn lock(path: &Path) -> io::Result<File> {
    let lock = File::create(path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say_while("Waiting for another program that makes the Python interpreter", || lock.lock())?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(lock)
}

/// Those of other versions that were not used for long: the cache notes their use.
fn remove_unused(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let used = fs::metadata(entry.path().join(CODE)).and_then(|code| code.modified());
        let age = used.ok().and_then(|used| used.elapsed().ok());
        let is_interpreter = entry.file_name().to_string_lossy().starts_with(NAME);
        if is_interpreter && age.is_some_and(|age| age > UNUSED_MAX) {
            let _ = fs::remove_dir_all(entry.path());
        }
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

/// A folder's name is made of everything that its content depends on.
fn name() -> Result<String> {
    let mut settings = DefaultHasher::new();
    Engine::new(&self::settings().config())?.precompile_compatibility_hash().hash(&mut settings);
    pieces::VERSION.hash(&mut settings);
    Ok(format!("{NAME}{}-{:016x}", &sum_of_our_side()[..16], settings.finish()))
}

fn make(tool: &componentize::Tool, folder: &Path, cache: Option<&Path>) -> Result<()> {
    let library = folder.join(LIBRARY_FOLDER);
    fs::create_dir(&library)?;
    let opened = Folder::open(folder)?;
    let stage = opened.temporary_folder()?;
    let component = reset::exported(&componentize::run(tool, stage.path(), &library)?)?;
    drop(stage);
    let component = merge::merged(&component).context("its libraries cannot be merged")?;
    // Only what is added for it tells what is in an instance's memory.
    let (_, with_memory_exported) = Wizer::new().instrument_component(&component)?;
    let known = cache.and_then(kept_code::functions_in);
    let known = known.map_or_else(|| Sealed::new("functions", &[]), Ok)?;
    let compiled = settings().compile("interpreter", &with_memory_exported, LIMITS, Some(&known))?;
    if let (Some(functions), Some(cache)) = (compiled.functions, cache) {
        kept_code::keep_functions_in(cache, &functions);
    }
    let kept = Cache::open(folder, FILES_MAX)?;
    kept.keep(COMPONENT, &component)?;
    kept.keep_sealed(CODE, &compiled.code)?;
    for entry in WalkDir::new(&library) {
        let entry = entry?;
        let mode = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
    }
    // It has its name when all of it is on the disk.
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_interpreter_that_is_not_whole_is_not_taken_and_that_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Cache::open(folder.path(), FILES_MAX).unwrap();
        let told = Cell::new(0);
        let is_found = || Interpreter::find(folder.path(), &|_| told.set(told.get() + 1)).is_some();
        assert!(!is_found(), "there is none yet");
        for name in [COMPONENT, CODE] {
            kept.keep(COMPONENT, b"component").unwrap();
            kept.keep(CODE, b"code").unwrap();
            told.set(0);
            assert!(is_found() && told.get() == 0);
            File::options().write(true).open(folder.path().join(name)).unwrap().set_len(3).unwrap();
            assert!(!is_found() && told.get() == 1, "{name}");
        }
    }
}
