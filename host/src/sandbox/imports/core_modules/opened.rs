//! What a core module has open: it is counted, and folders are listed piece by piece.

use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{Caller, Linker};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::types::{Errno, Filetype};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as wasmtimes;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wiggle::GuestPtr;

use super::caller::{MODULE, numbers, parts};
use crate::sandbox::files::disk::in_a_thread;
use crate::sandbox::files::entries::{self, Entry};
use crate::sandbox::state::State;

/// `dirent`: `d_next` u64, `d_ino` u64, `d_namlen` u32, `d_type` u8, and the rest is room.
const ENTRY_BYTES: usize = 24;

pub(super) fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "path_open", |mut caller: Caller<'_, State>, arguments: Open| {
        Box::new(async move { path_open(&mut caller, arguments).await })
    })?;
    linker.func_wrap_async(MODULE, "fd_close", |mut caller: Caller<'_, State>, (fd,): (i32,)| {
        Box::new(async move {
            let (mut memory, state) = parts(&mut caller)?;
            let errno = wasmtimes::fd_close(state.preview1(), &mut memory, fd).await?;
            if errno == Errno::Success as i32 {
                numbers(state).remove(fd as u32);
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
                    numbers(state).renumber(from as u32, to as u32);
                }
                Ok(errno)
            })
        },
    )?;
    linker.func_wrap_async(MODULE, "fd_readdir", |mut caller: Caller<'_, State>, arguments: Read| {
        Box::new(async move { fd_readdir(&mut caller, arguments).await })
    })?;
    Ok(())
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
        let opened = wasi.ctx().table.get(&Resource::<Descriptor>::new_borrow(next)).ok().cloned();
        numbers(state).add(fd, opened.as_ref(), place);
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
    let Some(folder) = numbers(state).folder(fd as u32) else {
        // It tells what is wrong with it.
        let wasi = state.preview1();
        return wasmtimes::fd_readdir(wasi, &mut memory, fd, buffer, buffer_bytes, cookie, out).await;
    };
    let may_block = state.server.blocking_files;
    let read = move || entries::read_from(&folder.dir, cookie as u64);
    let (entries, numbers) = match in_a_thread(may_block, read).await {
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
