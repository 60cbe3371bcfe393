//! WASI 0.1 of core modules, as far as it is ours: what a module has open is counted, and
//! long calls are made in pieces. wasmtime does the rest, and keeps to itself which number
//! of a module's stands for which file.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Weak;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{AsContextMut, Caller, Extern, Linker};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, Dir};
use wasmtime_wasi::p1::types::{Errno, Filetype};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasmtimes, WasiSnapshotPreview1};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::bindings::random::random;
use wiggle::{GuestMemory, GuestPtr};

use super::files::listing::{self, Entry};
use super::files::{self, Place};
use super::module_paths;
use super::random::PIECE_BYTES;
use crate::sandbox::state::{self, State};

pub const MODULE: &str = "wasi_snapshot_preview1";

/// The numbers of standard input, output and error come first, then the folders.
const FIRST_FOLDER: u32 = 3;

/// `dirent`: `d_next` u64, `d_ino` u64, `d_namlen` u32, `d_type` u8, and the rest is room.
const ENTRY_BYTES: usize = 24;

/// What a module has open, by its numbers. None before it opens something.
#[derive(Default)]
pub struct Numbers(Option<HashMap<u32, Number>>);

struct Number {
    /// If it is a folder.
    folder: Option<Dir>,
    /// If it is a file.
    file: Weak<File>,
    /// The folders that it was given share theirs with all instances.
    _place: Option<Place>,
}

impl Numbers {
    /// See `Opened::under_way`.
    pub fn under_way(&self) -> Vec<Weak<File>> {
        let files = self.0.iter().flat_map(HashMap::values).map(|number| number.file.clone());
        files.filter(|file| file.strong_count() > 0).collect()
    }
}

/// Takes the place of wasmtime's functions.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let defined = define(linker);
    linker.allow_shadowing(false);
    defined
}

fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "path_open", |mut caller: Caller<'_, State>, arguments: Open| {
        Box::new(async move { path_open(&mut caller, arguments).await })
    })?;
    linker.func_wrap_async(MODULE, "fd_close", |mut caller: Caller<'_, State>, (fd,): (i32,)| {
        Box::new(async move {
            let (mut memory, state) = parts(&mut caller)?;
            let errno = wasmtimes::fd_close(state.preview1(), &mut memory, fd).await?;
            if errno == Errno::Success as i32 {
                numbers(state).remove(&(fd as u32));
            }
            Ok(errno)
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, State>, (from, to): (i32, i32)| {
            Box::new(async move {
                let (mut memory, state) = parts(&mut caller)?;
                let errno = wasmtimes::fd_renumber(state.preview1(), &mut memory, from, to).await?;
                if errno == Errno::Success as i32 && from != to {
                    // What was there is closed, whatever takes its number.
                    numbers(state).remove(&(to as u32));
                    if let Some(number) = numbers(state).remove(&(from as u32)) {
                        numbers(state).insert(to as u32, number);
                    }
                }
                Ok(errno)
            })
        },
    )?;
    linker.func_wrap_async(MODULE, "fd_readdir", |mut caller: Caller<'_, State>, arguments: Read| {
        Box::new(async move { fd_readdir(&mut caller, arguments).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "random_get",
        |mut caller: Caller<'_, State>, (at, bytes): (i32, i32)| {
            Box::new(async move { random_get(&mut caller, at as u32, bytes as u32).await })
        },
    )?;
    module_paths::define(linker)
}

/// The module's memory, and the state; as wasmtime finds them.
pub fn parts<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(GuestMemory<'a>, &'a mut State)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("missing required memory export");
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    state.preview1().set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(memory), state))
}

fn numbers(state: &mut State) -> &mut HashMap<u32, Number> {
    let server = state.server.clone();
    let folders = &server.folders;
    state.files().numbers.0.get_or_insert_with(|| {
        let given = |folder: &Dir| Number { folder: Some(folder.clone()), file: Weak::new(), _place: None };
        (FIRST_FOLDER..).zip(folders.iter().map(given)).collect()
    })
}

/// If the number stands for a folder.
pub fn folder(state: &mut State, fd: i32) -> Option<Dir> {
    numbers(state).get(&(fd as u32)).and_then(|number| number.folder.clone())
}

type Open = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

async fn path_open(caller: &mut Caller<'_, State>, arguments: Open) -> wasmtime::Result<i32> {
    let (folder, follow, path, path_bytes, how, rights, inherited, flags, out) = arguments;
    let (mut memory, state) = parts(caller)?;
    let Some(place) = state.take_place() else {
        return Ok(Errno::Mfile as i32);
    };
    let Some(next) = next_in(state.preview1().ctx().table) else { return Ok(Errno::Mfile as i32) };
    let wasi = state.preview1();
    let errno = wasmtimes::path_open(
        wasi,
        &mut memory,
        folder,
        follow,
        path,
        path_bytes,
        how,
        rights,
        inherited,
        flags,
        out,
    );
    let errno = errno.await?;
    if errno == Errno::Success as i32 {
        let fd: u32 = memory.read(GuestPtr::new(out as u32))?;
        let (folder, file) = match wasi.ctx().table.get(&Resource::<Descriptor>::new_borrow(next)) {
            Ok(Descriptor::Dir(folder)) => (Some(folder.clone()), Weak::new()),
            Ok(opened) => (None, files::file(opened)),
            Err(_) => (None, Weak::new()),
        };
        numbers(state).insert(fd, Number { folder, file, _place: Some(place) });
    }
    Ok(errno)
}

/// Where the next resource is put. None if there is no room.
fn next_in(table: &mut ResourceTable) -> Option<u32> {
    let next = table.push(()).ok()?;
    let number = next.rep();
    table.delete(next).ok().map(|()| number)
}

type Read = (i32, i32, i32, i64, i32);

async fn fd_readdir(caller: &mut Caller<'_, State>, arguments: Read) -> wasmtime::Result<i32> {
    let (fd, buffer, buffer_bytes, cookie, out) = arguments;
    let (mut memory, state) = parts(caller)?;
    let Some(folder) = folder(state, fd) else {
        // It tells what is wrong with it.
        let wasi = state.preview1();
        return wasmtimes::fd_readdir(wasi, &mut memory, fd, buffer, buffer_bytes, cookie, out).await;
    };
    let may_block = state.server.blocking_files;
    let read = move || listing::read_from(&folder.dir, cookie as u64);
    let (entries, numbers) = match files::in_a_thread(may_block, read).await {
        Ok(read) => read,
        Err(error) => return Ok(Errno::from(ErrorCode::from(error)) as i32),
    };
    let mut packed = Vec::new();
    for entry in entries {
        if packed.len() >= buffer_bytes as u32 as usize {
            break;
        }
        let Some(name) = &entry.name else {
            if packed.is_empty() {
                return Ok(Errno::Ilseq as i32);
            }
            break;
        };
        pack(&mut packed, &entry, numbers.of(&entry), name);
    }
    packed.truncate(buffer_bytes as u32 as usize);
    let count = packed.len() as u32;
    memory.copy_from_slice(&packed, GuestPtr::<u8>::new(buffer as u32).as_array(count))?;
    memory.write(GuestPtr::<u32>::new(out as u32), count)?;
    Ok(Errno::Success as i32)
}

fn pack(packed: &mut Vec<u8>, entry: &Entry, number: u64, name: &str) {
    use rustix::fs::FileType;
    let kind = match entry.kind {
        FileType::RegularFile => Filetype::RegularFile,
        FileType::Directory => Filetype::Directory,
        FileType::Symlink => Filetype::SymbolicLink,
        FileType::BlockDevice => Filetype::BlockDevice,
        FileType::CharacterDevice => Filetype::CharacterDevice,
        FileType::Fifo | FileType::Socket | FileType::Unknown => Filetype::Unknown,
    };
    let end = packed.len() + ENTRY_BYTES;
    packed.extend_from_slice(&entry.next.to_le_bytes());
    packed.extend_from_slice(&number.to_le_bytes());
    packed.extend_from_slice(&(name.len() as u32).to_le_bytes());
    packed.push(kind as u8);
    packed.resize(end, 0);
    packed.extend_from_slice(name.as_bytes());
}

async fn random_get(caller: &mut Caller<'_, State>, at: u32, bytes: u32) -> wasmtime::Result<i32> {
    let mut done = 0;
    while done < bytes {
        if done > 0 {
            state::pause(caller.data_mut())?.await;
        }
        let (mut memory, state) = parts(caller)?;
        let piece = (bytes - done).min(PIECE_BYTES as u32);
        let made = random::Host::get_random_bytes(state.preview1().ctx().ctx.random(), piece.into())?;
        let into = GuestPtr::<u8>::new(at).add(done)?.as_array(piece);
        memory.copy_from_slice(&made, into)?;
        done += piece;
    }
    Ok(Errno::Success as i32)
}
