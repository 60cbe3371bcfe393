//! What changes nothing, by WASI 0.2: what does not have to wait for a disk is done at
//! once, in the thread that runs the guest. wasmtime hands all of it to a thread that
//! may block, and the two switches between threads cost more than the rest of a small
//! file. Only what the system has in memory is done here; it says so itself.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fstat};
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{self, Descriptor, OpenMode, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, HostDescriptor, MetadataHashValue, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, FsResult};

use super::descriptors::{Store, close, keep, local, stands_for_lock, take_place, told};
use super::threads::{now, with};
use crate::sandbox::files::content::{self, Content};
use crate::sandbox::files::disk::in_a_thread;
use crate::sandbox::files::locks;
use crate::sandbox::files::lookup::{Found, find};
use crate::sandbox::state::State;

pub(super) fn define(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    types.func_wrap("[method]descriptor.read-via-stream", |store, (file, offset)| {
        Ok((read_via_stream(store, file, offset)?,))
    })?;
    types.func_wrap("[method]descriptor.get-flags", |mut store: Store<'_>, (descriptor,)| {
        Ok((Ok::<_, ErrorCode>(flags(store.data_mut().ctx().table.get(&descriptor)?)),))
    })?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store, (folder, follow, path, how, flags)| {
            Box::new(async move { told(open_at(&mut store, folder, follow, path, how, flags).await) })
        },
    )?;
    types.func_wrap_async("[method]descriptor.stat-at", |mut store, (folder, follow, path)| {
        Box::new(async move { told(stat_at(&mut store, folder, follow, path).await) })
    })?;
    types.func_wrap_async("[method]descriptor.metadata-hash-at", |mut store, (folder, follow, path)| {
        Box::new(async move { told(metadata_hash_at(&mut store, folder, follow, path).await) })
    })?;
    types.func_wrap_async("[method]descriptor.read", |mut store, (file, bytes, offset)| {
        Box::new(async move { told(read(&mut store, file, bytes, offset).await) })
    })?;
    // wasmtime does at once whatever a guest does with a file that was opened at once. Of
    // what can be done with one that is not opened to be written, these, `advise`,
    // `set-times` and the two of `sync` may wait.
    types.func_wrap_async("[method]descriptor.is-same-object", |mut store, (one, other)| {
        Box::new(async move { Ok((is_same_object(&mut store, one, other).await?,)) })
    })?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, descriptor| {
        close(&mut store, Resource::new_own(descriptor))
    })?;
    Ok(())
}

/// Needs nothing of the system: wasmtime keeps in mind how it opened what it opened, and
/// nothing so that writing waits for the disk, of which the other flags are.
fn flags(descriptor: &Descriptor) -> DescriptorFlags {
    let (mode, write) = match descriptor {
        Descriptor::File(file) => (file.open_mode, DescriptorFlags::WRITE),
        Descriptor::Dir(folder) => (folder.open_mode, DescriptorFlags::MUTATE_DIRECTORY),
    };
    let mut flags = DescriptorFlags::empty();
    if mode.contains(OpenMode::READ) {
        flags |= DescriptorFlags::READ;
    }
    if mode.contains(OpenMode::WRITE) {
        flags |= write;
    }
    flags
}

async fn open_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    how: OpenFlags,
    flags: DescriptorFlags,
) -> FsResult<Resource<Descriptor>> {
    let place = take_place(store)?;
    if how == OpenFlags::empty()
        && (DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY).contains(flags)
        && let Some(folder) = local(store, &folder)?
    {
        let how = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
        match find(&folder.dir, &path, follow.contains(PathFlags::SYMLINK_FOLLOW), how) {
            // A named pipe's writer is not waited for: WASI reads at an offset, which a pipe
            // does not have.
            Found::Something(file) if is_a(&file, FileType::RegularFile) || is_a(&file, FileType::Fifo) => {
                let file = filesystem::File::new(file, folder.perms, OpenMode::READ, true);
                return keep(store, Descriptor::File(file), place);
            }
            Found::Nothing => return Err(ErrorCode::NoEntry.into()),
            // A folder, a device.
            Found::Something(_) | Found::Unknown => {}
        }
    }
    let opened = with(store, [&folder], move |files, [folder]| {
        let opened = now(files.open_at(folder, follow, path, how, flags))?;
        Ok(files.table.delete(opened)?)
    });
    let opened = opened.await?;
    keep(store, opened, place)
}

fn is_a(file: &File, kind: FileType) -> bool {
    fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

pub(crate) async fn stat_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
) -> FsResult<DescriptorStat> {
    match stat_of_real(store, &folder, follow, &path).await {
        Err(error) if stands_for_lock(store, &folder, &path, &error).await? => Ok(DescriptorStat {
            type_: DescriptorType::Directory,
            link_count: 2,
            size: 0,
            data_access_timestamp: None,
            data_modification_timestamp: None,
            status_change_timestamp: None,
        }),
        stat => stat,
    }
}

async fn stat_of_real(
    store: &mut Store<'_>,
    folder: &Resource<Descriptor>,
    follow: PathFlags,
    path: &str,
) -> FsResult<DescriptorStat> {
    let at_once = named(store, folder, follow, path)?;
    let mut files = store.data_mut().filesystem();
    let Some(named) = at_once else {
        return files.stat_at(Resource::new_borrow(folder.rep()), follow, path.to_owned()).await;
    };
    let stat = files.stat(Resource::new_borrow(named.rep())).await;
    files.table.delete(named)?;
    stat
}

/// That of a folder which stands for a lock is the database's, turned round.
async fn metadata_hash_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
) -> FsResult<MetadataHashValue> {
    match hash_of_real(store, &folder, follow, &path).await {
        Err(error) if stands_for_lock(store, &folder, &path, &error).await? => {
            let database = locks::database(&path).unwrap_or_default();
            let hash = hash_of_real(store, &folder, PathFlags::SYMLINK_FOLLOW, database).await?;
            Ok(MetadataHashValue { lower: !hash.lower, upper: !hash.upper })
        }
        hash => hash,
    }
}

async fn hash_of_real(
    store: &mut Store<'_>,
    folder: &Resource<Descriptor>,
    follow: PathFlags,
    path: &str,
) -> FsResult<MetadataHashValue> {
    let at_once = named(store, folder, follow, path)?;
    let mut files = store.data_mut().filesystem();
    let Some(named) = at_once else {
        return files.metadata_hash_at(Resource::new_borrow(folder.rep()), follow, path.to_owned()).await;
    };
    let hash = files.metadata_hash(Resource::new_borrow(named.rep())).await;
    files.table.delete(named)?;
    hash
}

/// What is at `path`, to be asked what it is and for nothing else, if that is known at
/// once. wasmtime knows how to tell it.
fn named(
    store: &mut Store<'_>,
    folder: &Resource<Descriptor>,
    follow: PathFlags,
    path: &str,
) -> FsResult<Option<Resource<Descriptor>>> {
    let Some(folder) = local(store, folder)? else { return Ok(None) };
    match find(&folder.dir, path, follow.contains(PathFlags::SYMLINK_FOLLOW), OFlags::PATH) {
        Found::Something(file) => {
            let file = filesystem::File::new(file, folder.perms, OpenMode::empty(), true);
            Ok(Some(store.data_mut().ctx().table.push(Descriptor::File(file))?))
        }
        Found::Nothing => Err(ErrorCode::NoEntry.into()),
        Found::Unknown => Ok(None),
    }
}

fn read_via_stream(
    mut store: Store<'_>,
    file: Resource<Descriptor>,
    offset: u64,
) -> wasmtime::Result<Result<Resource<DynInputStream>, ErrorCode>> {
    let may_block = store.data().server.blocking_files;
    let table = store.data_mut().ctx().table;
    let file = match table.get(&file)? {
        Descriptor::File(file) => file.file.clone(),
        Descriptor::Dir(_) => return Ok(Err(ErrorCode::IsDirectory)),
    };
    let content: DynInputStream = Box::new(Content::new(file, offset, may_block));
    Ok(Ok(table.push(content)?))
}

async fn read(
    store: &mut Store<'_>,
    file: Resource<Descriptor>,
    bytes: u64,
    offset: u64,
) -> FsResult<(Vec<u8>, bool)> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let may_block = store.data().server.blocking_files;
    let file = match store.data_mut().ctx().table.get(&file)? {
        Descriptor::File(file) => file.file.clone(),
        Descriptor::Dir(_) => return Err(ErrorCode::BadDescriptor.into()),
    };
    let read = match content::read_at_once(&file, bytes, offset) {
        Some(read) => read,
        None => in_a_thread(may_block, move || content::read_at(&file, bytes, offset)).await?,
    };
    let is_over = read.is_empty();
    Ok((read.into(), is_over))
}

async fn is_same_object(
    store: &mut Store<'_>,
    one: Resource<Descriptor>,
    other: Resource<Descriptor>,
) -> wasmtime::Result<bool> {
    let may_block = store.data().server.blocking_files;
    let table = store.data_mut().ctx().table;
    let (one, other) = (opened(table.get(&one)?), opened(table.get(&other)?));
    let identities = in_a_thread(may_block, move || Ok([fstat(&one)?, fstat(&other)?])).await?;
    let [one, other] = identities.map(|stat| (stat.st_dev, stat.st_ino));
    Ok(one == other)
}

fn opened(descriptor: &Descriptor) -> Arc<File> {
    match descriptor {
        Descriptor::File(file) => file.file.clone(),
        Descriptor::Dir(folder) => folder.dir.clone(),
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi::filesystem::{FsPerms, WasiFilesystemCtxView};
    use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
    use wasmtime_wasi::{ResourceTable, WasiCtx};

    use super::*;

    #[tokio::test]
    async fn flags_are_those_that_wasmtime_would_ask_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = WasiCtx::builder();
        builder.preopened_dir(folder.path(), "read", FsPerms::ReadOnly).unwrap();
        builder.preopened_dir(folder.path(), "written", FsPerms::ReadWrite).unwrap();
        let mut wasi = builder.build();
        let mut table = ResourceTable::new();
        let mut files = WasiFilesystemCtxView { ctx: wasi.filesystem(), table: &mut table };
        let mut opened: Vec<_> =
            files.get_directories().unwrap().into_iter().map(|(folder, _)| folder).collect();
        for (how, flags) in [
            (OpenFlags::CREATE, DescriptorFlags::WRITE),
            (OpenFlags::empty(), DescriptorFlags::READ),
            (OpenFlags::empty(), DescriptorFlags::READ | DescriptorFlags::WRITE),
        ] {
            let folder = Resource::new_borrow(opened[1].rep());
            opened.push(
                files.open_at(folder, PathFlags::empty(), "file".to_owned(), how, flags).await.unwrap(),
            );
        }
        for descriptor in opened {
            let own = flags(files.table.get(&descriptor).unwrap());
            assert!(own == files.get_flags(descriptor).await.unwrap());
        }
    }
}
