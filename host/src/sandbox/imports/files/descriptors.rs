//! What the functions for files have in common: a guest's descriptors, with their places,
//! and the folders that stand for locks.

use std::fs::File;
use std::io;
use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::{Descriptor, Dir, FsPerms};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::{FsError, FsResult};
use wasmtime_wasi::{ResourceTable, WasiView};

use crate::sandbox::files::disk::in_a_thread;
use crate::sandbox::files::locks;
use crate::sandbox::files::places::Place;
use crate::sandbox::state::State;

pub(super) type Store<'a> = StoreContextMut<'a, State>;

pub(super) fn table<'a>(store: &'a mut Store<'_>) -> &'a mut ResourceTable {
    store.data_mut().ctx().table
}

/// A result as the linker has it.
pub(super) fn told<T>(result: FsResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// A descriptor is in the table, and holds the place.
pub(super) fn keep(
    store: &mut Store<'_>,
    descriptor: Descriptor,
    place: Place,
) -> FsResult<Resource<Descriptor>> {
    let number = table(store).push(descriptor.clone())?;
    store.data_mut().files().opened.add(number.rep(), &descriptor, place);
    Ok(number)
}

/// A guest drops a descriptor.
pub(super) fn close(store: &mut Store<'_>, descriptor: Resource<Descriptor>) -> wasmtime::Result<()> {
    let number = descriptor.rep();
    let closed = table(store).delete(descriptor)?;
    store.data_mut().files().opened.remove(number, &closed);
    Ok(())
}

/// WASI has no name for this error; of those that it has, no room comes closest.
pub(super) fn take_place(store: &mut Store<'_>) -> FsResult<Place> {
    let state = store.data_mut();
    let place = state.take_place();
    place.ok_or_else(|| ErrorCode::InsufficientMemory.into())
}

/// The folder, if paths in it may be resolved at once.
pub(super) fn local(store: &mut Store<'_>, folder: &Resource<Descriptor>) -> FsResult<Option<Dir>> {
    let server = store.data().server.clone();
    Ok(match store.data_mut().ctx().table.get(folder)? {
        Descriptor::Dir(folder)
            if server.local_folders.iter().any(|local| Arc::ptr_eq(local, &folder.dir)) =>
        {
            Some(folder.clone())
        }
        _ => None,
    })
}

/// There is no folder at `path`, as `error` says, but to guests there is one, by which a
/// database is locked.
pub(super) async fn stands_for_lock(
    store: &mut Store<'_>,
    folder: &Resource<Descriptor>,
    path: &str,
    error: &FsError,
) -> FsResult<bool> {
    if !matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)) || locks::database(path).is_none() {
        return Ok(false);
    }
    let may_block = store.data().server.blocking_files;
    let Descriptor::Dir(folder) = table(store).get(folder)? else { return Ok(false) };
    Ok(finds_lock(may_block, folder.dir.clone(), path.to_owned()).await?)
}

pub(super) async fn finds_lock(may_block: bool, folder: Arc<File>, path: String) -> io::Result<bool> {
    in_a_thread(may_block, move || Ok(locks::stands_for_lock(&folder, &path))).await
}

/// A folder in which the guest may make and remove.
pub(super) fn folder_to_write(
    store: &mut Store<'_>,
    folder: &Resource<Descriptor>,
) -> FsResult<Option<Arc<File>>> {
    Ok(match table(store).get(folder)? {
        Descriptor::Dir(folder) if folder.perms == FsPerms::ReadWrite => Some(folder.dir.clone()),
        _ => None,
    })
}
