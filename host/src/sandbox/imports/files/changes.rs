//! What changes files and folders. wasmtime does it (`threads`), except for the folders
//! that stand for locks (`locks`).

use std::fs::File;
use std::io;
use std::sync::Arc;

use wasmtime::component::{LinkerInstance, Resource};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, FsPerms};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, ErrorCode, HostDescriptor, NewTimestamp, PathFlags,
};
use wasmtime_wasi::p2::{DynOutputStream, FsResult};

use super::descriptors::{Store, folder_to_write, stands_for_lock, take_place, told};
use super::threads::{now, with};
use crate::sandbox::files::disk::in_a_thread;
use crate::sandbox::files::locks::{self, Locks, Made};
use crate::sandbox::files::places::Place;
use crate::sandbox::files::written::{Position, Written};
use crate::sandbox::host::Host;
use crate::sandbox::state::State;

pub(super) fn define(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    types.func_wrap("[method]descriptor.write-via-stream", |store, (file, offset)| {
        told(write_via_stream(store, file, Position::At(offset)))
    })?;
    types.func_wrap("[method]descriptor.append-via-stream", |store, (file,)| {
        told(write_via_stream(store, file, Position::End))
    })?;
    types.func_wrap_async("[method]descriptor.write", |mut store, (file, bytes, offset)| {
        Box::new(async move { told(write(&mut store, file, bytes, offset).await) })
    })?;
    types.func_wrap_async("[method]descriptor.set-size", |mut store, (file, size)| {
        Box::new(async move { told(set_size(&mut store, file, size).await) })
    })?;
    types.func_wrap_async("[method]descriptor.advise", |mut store, (file, offset, bytes, advice)| {
        Box::new(async move { told(advise(&mut store, file, offset, bytes, advice).await) })
    })?;
    types.func_wrap_async("[method]descriptor.set-times", |mut store, (file, accessed, modified)| {
        Box::new(async move { told(set_times(&mut store, file, accessed, modified).await) })
    })?;
    types.func_wrap_async("[method]descriptor.sync", |mut store, (file,)| {
        Box::new(async move { told(sync(&mut store, file).await) })
    })?;
    types.func_wrap_async("[method]descriptor.sync-data", |mut store, (file,)| {
        Box::new(async move { told(sync_data(&mut store, file).await) })
    })?;
    define_at_paths(types)
}

fn define_at_paths(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[method]descriptor.set-times-at",
        |mut store, (folder, follow, path, accessed, modified)| {
            Box::new(
                async move { told(set_times_at(&mut store, folder, follow, path, accessed, modified).await) },
            )
        },
    )?;
    types.func_wrap_async("[method]descriptor.create-directory-at", |mut store, (folder, path)| {
        Box::new(async move { told(create_directory_at(&mut store, folder, path).await) })
    })?;
    types.func_wrap_async("[method]descriptor.remove-directory-at", |mut store, (folder, path)| {
        Box::new(async move { told(remove_directory_at(&mut store, folder, path).await) })
    })?;
    types.func_wrap_async("[method]descriptor.unlink-file-at", |mut store, (folder, path)| {
        Box::new(async move { told(unlink_file_at(&mut store, folder, path).await) })
    })?;
    types.func_wrap_async("[method]descriptor.symlink-at", |mut store, (folder, to, path)| {
        Box::new(async move { told(symlink_at(&mut store, folder, to, path).await) })
    })?;
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |mut store, (folder, path, new_folder, new_path)| {
            Box::new(async move { told(rename_at(&mut store, folder, path, new_folder, new_path).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store, (folder, follow, path, new_folder, new_path)| {
            Box::new(
                async move { told(link_at(&mut store, folder, follow, path, new_folder, new_path).await) },
            )
        },
    )
}

fn write_via_stream(
    mut store: Store<'_>,
    file: Resource<Descriptor>,
    position: Position,
) -> FsResult<Resource<DynOutputStream>> {
    let (may_block, locks) = (store.data().server.blocking_files, store.data_mut().files().locks.clone());
    let table = store.data_mut().ctx().table;
    let file = match table.get(&file)? {
        Descriptor::File(file) if file.perms == FsPerms::ReadWrite => file.file.clone(),
        Descriptor::File(_) => return Err(ErrorCode::NotPermitted.into()),
        Descriptor::Dir(_) => return Err(ErrorCode::BadDescriptor.into()),
    };
    let written: DynOutputStream = Box::new(Written::new(file, position, locks, may_block));
    Ok(table.push(written)?)
}

async fn write(
    store: &mut Store<'_>,
    file: Resource<Descriptor>,
    bytes: Vec<u8>,
    offset: u64,
) -> FsResult<u64> {
    with(store, [&file], move |files, [file]| now(files.write(file, bytes, offset))).await
}

async fn set_size(store: &mut Store<'_>, file: Resource<Descriptor>, size: u64) -> FsResult<()> {
    with(store, [&file], move |files, [file]| now(files.set_size(file, size))).await
}

async fn advise(
    store: &mut Store<'_>,
    file: Resource<Descriptor>,
    offset: u64,
    bytes: u64,
    advice: Advice,
) -> FsResult<()> {
    with(store, [&file], move |files, [file]| now(files.advise(file, offset, bytes, advice))).await
}

async fn set_times(
    store: &mut Store<'_>,
    file: Resource<Descriptor>,
    accessed: NewTimestamp,
    modified: NewTimestamp,
) -> FsResult<()> {
    with(store, [&file], move |files, [file]| now(files.set_times(file, accessed, modified))).await
}

async fn sync(store: &mut Store<'_>, file: Resource<Descriptor>) -> FsResult<()> {
    with(store, [&file], |files, [file]| now(files.sync(file))).await
}

async fn sync_data(store: &mut Store<'_>, file: Resource<Descriptor>) -> FsResult<()> {
    with(store, [&file], |files, [file]| now(files.sync_data(file))).await
}

/// Whoever holds a lock gives its folder a new time now and then; nobody looks at it.
pub(crate) async fn set_times_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    accessed: NewTimestamp,
    modified: NewTimestamp,
) -> FsResult<()> {
    let of_wasmtime = path.clone();
    let set = with(store, [&folder], move |files, [folder]| {
        now(files.set_times_at(folder, follow, of_wasmtime, accessed, modified))
    });
    match set.await {
        Err(error) if stands_for_lock(store, &folder, &path, &error).await? => Ok(()),
        set => set,
    }
}

pub(crate) async fn create_directory_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    path: String,
) -> FsResult<()> {
    if locks::database(&path).is_some()
        && let Some(folder) = folder_to_write(store, &folder)?
    {
        let (server, locks) = (store.data().server.clone(), store.data_mut().files().locks.clone());
        let place = take_place(store)?;
        match lock(&server, locks, folder, path.clone(), place).await? {
            Made::Locked | Made::LockedInPlaceOfFolder => return Ok(()),
            Made::Exists => return Err(ErrorCode::Exist.into()),
            Made::NotALock => {}
        }
    }
    with(store, [&folder], move |files, [folder]| now(files.create_directory_at(folder, path))).await
}

/// Takes the lock for which the folder at `path` would stand.
pub(super) async fn lock(
    server: &Host,
    locks: Locks,
    folder: Arc<File>,
    path: String,
    place: Place,
) -> io::Result<Made> {
    let of_lock = path.clone();
    let made = in_a_thread(server.blocking_files, move || locks.make(&folder, &of_lock, place)).await?;
    if made == Made::LockedInPlaceOfFolder {
        server
            .log
            .server(format_args!("the folder {path} was removed: nobody had used it as a lock for minutes"));
    }
    Ok(made)
}

pub(crate) async fn remove_directory_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    path: String,
) -> FsResult<()> {
    if locks::database(&path).is_some()
        && let Some(folder) = folder_to_write(store, &folder)?
    {
        let (may_block, locks) = (store.data().server.blocking_files, store.data_mut().files().locks.clone());
        let of_lock = path.clone();
        if in_a_thread(may_block, move || locks.remove(&folder, &of_lock)).await? {
            return Ok(());
        }
    }
    let of_wasmtime = path.clone();
    let removed =
        with(store, [&folder], move |files, [folder]| now(files.remove_directory_at(folder, of_wasmtime)));
    match removed.await {
        // Only who holds it ends it.
        Err(error) if stands_for_lock(store, &folder, &path, &error).await? => Err(ErrorCode::Busy.into()),
        removed => removed,
    }
}

pub(crate) async fn unlink_file_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    path: String,
) -> FsResult<()> {
    with(store, [&folder], move |files, [folder]| now(files.unlink_file_at(folder, path))).await
}

async fn symlink_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    to: String,
    path: String,
) -> FsResult<()> {
    with(store, [&folder], move |files, [folder]| now(files.symlink_at(folder, to, path))).await
}

pub(crate) async fn rename_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    path: String,
    new_folder: Resource<Descriptor>,
    new_path: String,
) -> FsResult<()> {
    with(store, [&folder, &new_folder], move |files, [folder, new_folder]| {
        now(files.rename_at(folder, path, new_folder, new_path))
    })
    .await
}

async fn link_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    new_folder: Resource<Descriptor>,
    new_path: String,
) -> FsResult<()> {
    with(store, [&folder, &new_folder], move |files, [folder, new_folder]| {
        now(files.link_at(folder, follow, path, new_folder, new_path))
    })
    .await
}
