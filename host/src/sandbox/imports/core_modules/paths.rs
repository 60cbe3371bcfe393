//! Paths of core modules that may be about SQLite's folders: those are locks, as by WASI
//! 0.2, which does what is to be done. While there is a lock, it also makes the changes of
//! folders, so that the lock does not end before they are made.

use wasmtime::component::Resource;
use wasmtime::{AsContextMut, Caller, Linker};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::types::{Errno, Filetype};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as wasmtimes;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, NewTimestamp, PathFlags};
use wiggle::{GuestMemory, GuestPtr};

use super::caller::{MODULE, numbers, parts};
use crate::sandbox::files::locks;
use crate::sandbox::imports::files;
use crate::sandbox::state::State;

/// Longer paths the system does not know.
const PATH_BYTES_MAX: u32 = 4096;

/// `fstflags`.
const ACCESSED_NOW: i32 = 2;
const MODIFIED_NOW: i32 = 8;
const GIVEN_TIMES: i32 = 1 | 4;

/// A folder's number, and where the path is and how long.
type Path = (i32, i32, i32);
type Paths = (i32, i32, i32, i32, i32, i32);
type Stat = (i32, i32, i32, i32, i32);
type Times = (i32, i32, i32, i32, i64, i64, i32);

pub(super) fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "path_create_directory",
        |mut caller: Caller<'_, State>, path: Path| {
            Box::new(async move { create_directory(&mut caller, path).await })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_remove_directory",
        |mut caller: Caller<'_, State>, path: Path| {
            Box::new(async move { remove_directory(&mut caller, path).await })
        },
    )?;
    linker.func_wrap_async(MODULE, "path_unlink_file", |mut caller: Caller<'_, State>, path: Path| {
        Box::new(async move { unlink_file(&mut caller, path).await })
    })?;
    linker.func_wrap_async(MODULE, "path_rename", |mut caller: Caller<'_, State>, paths: Paths| {
        Box::new(async move { rename(&mut caller, paths).await })
    })?;
    linker.func_wrap_async(MODULE, "path_filestat_get", |mut caller: Caller<'_, State>, stat: Stat| {
        Box::new(async move { filestat_get(&mut caller, stat).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "path_filestat_set_times",
        |mut caller: Caller<'_, State>, times: Times| {
            Box::new(async move { filestat_set_times(&mut caller, times).await })
        },
    )?;
    Ok(())
}

/// A path in a folder that the module has open, which is in the table for one call.
struct At {
    folder: Resource<Descriptor>,
    path: String,
}

impl At {
    /// None if the folder is not known, or `is_meant` gives nothing for the path: wasmtime
    /// tells what is wrong with it.
    fn find(
        caller: &mut Caller<'_, State>,
        (fd, path, bytes): Path,
        is_meant: fn(&str) -> Option<&str>,
    ) -> wasmtime::Result<Option<At>> {
        let (memory, state) = parts(caller)?;
        let Ok(path) = memory.as_cow_str(GuestPtr::<str>::new((path as u32, bytes as u32))) else {
            return Ok(None);
        };
        if is_meant(&path).is_none() {
            return Ok(None);
        }
        let path = path.into_owned();
        let Some(folder) = numbers(state).folder(fd as u32) else { return Ok(None) };
        let pushed = state.preview1().ctx().table.push(Descriptor::Dir(folder));
        Ok(pushed.ok().map(|folder| At { folder, path }))
    }

    fn folder(&self) -> Resource<Descriptor> {
        Resource::new_borrow(self.folder.rep())
    }

    /// What WASI 0.1 makes of a result.
    fn done(self, caller: &mut Caller<'_, State>, result: FsResult<()>) -> wasmtime::Result<i32> {
        caller.data_mut().preview1().ctx().table.delete(self.folder)?;
        Ok(match result {
            Ok(()) => Errno::Success,
            Err(error) => Errno::from(error.downcast()?),
        } as i32)
    }
}

fn is_too_long(bytes: i32) -> bool {
    bytes as u32 > PATH_BYTES_MAX
}

/// Said before the path is looked at, which may be as long as the memory: to see whether it is
/// UTF-8 is one piece of work.
const TOO_LONG: i32 = Errno::Nametoolong as i32;

async fn create_directory(caller: &mut Caller<'_, State>, path: Path) -> wasmtime::Result<i32> {
    if is_too_long(path.2) {
        return Ok(TOO_LONG);
    }
    let Some(at) = At::find(caller, path, locks::database)? else {
        let (mut memory, state) = parts(caller)?;
        return wasmtimes::path_create_directory(state.preview1(), &mut memory, path.0, path.1, path.2).await;
    };
    let (folder, path) = (at.folder(), at.path.clone());
    let made = files::create_directory_at(&mut caller.as_context_mut(), folder, path).await;
    at.done(caller, made)
}

async fn remove_directory(caller: &mut Caller<'_, State>, path: Path) -> wasmtime::Result<i32> {
    if is_too_long(path.2) {
        return Ok(TOO_LONG);
    }
    let Some(at) = At::find(caller, path, locks::database)? else {
        let (mut memory, state) = parts(caller)?;
        return wasmtimes::path_remove_directory(state.preview1(), &mut memory, path.0, path.1, path.2).await;
    };
    let (folder, path) = (at.folder(), at.path.clone());
    let removed = files::remove_directory_at(&mut caller.as_context_mut(), folder, path).await;
    at.done(caller, removed)
}

async fn unlink_file(caller: &mut Caller<'_, State>, path: Path) -> wasmtime::Result<i32> {
    if is_too_long(path.2) {
        return Ok(TOO_LONG);
    }
    let at = match caller.data().are_locks_held() {
        true => At::find(caller, path, |path| Some(path))?,
        false => None,
    };
    let Some(at) = at else {
        let (mut memory, state) = parts(caller)?;
        return wasmtimes::path_unlink_file(state.preview1(), &mut memory, path.0, path.1, path.2).await;
    };
    let (folder, path) = (at.folder(), at.path.clone());
    let removed = files::unlink_file_at(&mut caller.as_context_mut(), folder, path).await;
    at.done(caller, removed)
}

async fn rename(caller: &mut Caller<'_, State>, paths: Paths) -> wasmtime::Result<i32> {
    let (from_fd, from, from_bytes, to_fd, to, to_bytes) = paths;
    if is_too_long(from_bytes) || is_too_long(to_bytes) {
        return Ok(TOO_LONG);
    }
    let found = match caller.data().are_locks_held() {
        true => At::find(caller, (from_fd, from, from_bytes), |path| Some(path))?,
        false => None,
    };
    let Some(old) = found else {
        let (mut memory, state) = parts(caller)?;
        let wasi = state.preview1();
        return wasmtimes::path_rename(wasi, &mut memory, from_fd, from, from_bytes, to_fd, to, to_bytes)
            .await;
    };
    let Some(new) = At::find(caller, (to_fd, to, to_bytes), |path| Some(path))? else {
        return old.done(caller, Err(ErrorCode::BadDescriptor.into()));
    };
    let mut store = caller.as_context_mut();
    let (path, new_path) = (old.path.clone(), new.path.clone());
    let renamed = files::rename_at(&mut store, old.folder(), path, new.folder(), new_path).await;
    new.done(caller, Ok(()))?;
    old.done(caller, renamed)
}

async fn filestat_get(caller: &mut Caller<'_, State>, stat: Stat) -> wasmtime::Result<i32> {
    let (fd, follow, path, bytes, out) = stat;
    if is_too_long(bytes) {
        return Ok(TOO_LONG);
    }
    let (mut memory, state) = parts(caller)?;
    let wasi = state.preview1();
    let errno = wasmtimes::path_filestat_get(wasi, &mut memory, fd, follow, path, bytes, out).await?;
    if errno != Errno::Noent as i32 {
        return Ok(errno);
    }
    let Some(at) = At::find(caller, (fd, path, bytes), locks::database)? else { return Ok(errno) };
    let (folder, path) = (at.folder(), at.path.clone());
    let stat = files::stat_at(&mut caller.as_context_mut(), folder, PathFlags::empty(), path).await;
    if stat.is_ok() {
        write_folder(&mut parts(caller)?.0, out as u32)?;
    }
    at.done(caller, stat.map(|_| ()))
}

/// `filestat` of a folder: its kind is at 16, the number of its links at 24.
fn write_folder(memory: &mut GuestMemory<'_>, at: u32) -> wasmtime::Result<()> {
    let mut stat = [0; 64];
    stat[0] = 1;
    stat[16] = Filetype::Directory as u8;
    stat[24] = 2;
    memory.copy_from_slice(&stat, GuestPtr::<u8>::new(at).as_array(stat.len() as u32))?;
    Ok(())
}

async fn filestat_set_times(caller: &mut Caller<'_, State>, times: Times) -> wasmtime::Result<i32> {
    let (fd, follow, path, bytes, accessed, modified, flags) = times;
    if is_too_long(bytes) {
        return Ok(TOO_LONG);
    }
    let at = match flags & GIVEN_TIMES {
        0 => At::find(caller, (fd, path, bytes), locks::database)?,
        _ => None,
    };
    let Some(at) = at else {
        let (mut memory, state) = parts(caller)?;
        let wasi = state.preview1();
        return wasmtimes::path_filestat_set_times(
            wasi,
            &mut memory,
            fd,
            follow,
            path,
            bytes,
            accessed,
            modified,
            flags,
        )
        .await;
    };
    let time = |is_now: bool| if is_now { NewTimestamp::Now } else { NewTimestamp::NoChange };
    let (accessed, modified) = (time(flags & ACCESSED_NOW != 0), time(flags & MODIFIED_NOW != 0));
    let (folder, path) = (at.folder(), at.path.clone());
    let follow = PathFlags::SYMLINK_FOLLOW;
    let mut store = caller.as_context_mut();
    let set = files::set_times_at(&mut store, folder, follow, path, accessed, modified).await;
    at.done(caller, set)
}
