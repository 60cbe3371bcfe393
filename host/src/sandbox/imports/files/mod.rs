//! `wasi:filesystem`, as far as it is ours: what does not have to wait for a disk is done
//! at once, in the thread that runs the guest. wasmtime hands all of it to a thread that
//! may block, and the two switches between threads cost more than the rest of a small
//! file. Only what the system has in memory is done here; it says so itself.

mod changes;
mod concurrent;
mod content;
pub mod listing;
mod locks;
mod lookup;
mod places;
mod record_lock;
mod threads;
mod written;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, OFlags, fstat};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::filesystem::{self, Descriptor, Dir, FsPerms, OpenMode, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, HostDescriptor, MetadataHashValue, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, FsError, FsResult};
use wasmtime_wasi::{ResourceTable, WasiView};

pub use self::changes::{create_directory_at, remove_directory_at, rename_at, set_times_at, unlink_file_at};
use self::content::Content;
use self::locks::Locks;
pub use self::locks::{Held, database};
use self::lookup::{Found, find};
pub use self::lookup::{folders, local_folders};
use self::places::Opened;
pub use self::places::file;
pub use self::places::{Place, Places};
pub use self::threads::{AtOnce, in_a_thread};
use self::threads::{now, with};
use super::modules::Numbers;
use crate::sandbox::state::State;

/// The name under which wasmtime offers it.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// What one instance has of files beside its descriptors.
#[derive(Default)]
pub struct Files {
    locks: Locks,
    pub opened: Opened,
    pub numbers: Numbers,
}

impl Files {
    pub fn are_locks_held(&self) -> bool {
        self.locks.are_held()
    }

    pub fn held(&self) -> Held {
        self.locks.held()
    }
}

impl Drop for Files {
    /// By WASI 0.1 and 0.3, wasmtime may still be writing in threads of its own.
    fn drop(&mut self) {
        if !self.locks.are_held() {
            return;
        }
        let mut under_way = self.opened.under_way();
        under_way.extend(self.numbers.under_way());
        if under_way.is_empty() {
            return;
        }
        let locks = self.locks.clone();
        let wait = move || {
            let _until_done = locks;
            while under_way.iter().any(|file| file.strong_count() > 0) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // Without a thread they end at once.
        let _ = std::thread::Builder::new().name("locks".into()).spawn(wait);
    }
}

/// Takes the place of wasmtime's functions.
pub fn add_to_linker(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut defined = define(&mut linker.instance(INTERFACE)?);
    if is_concurrent {
        defined = defined.and(concurrent::define(linker));
    }
    linker.allow_shadowing(false);
    defined
}

fn define(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
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
    listing::define(types)?;
    changes::define(types)
}

type Store<'a> = StoreContextMut<'a, State>;

fn table<'a>(store: &'a mut Store<'_>) -> &'a mut ResourceTable {
    store.data_mut().ctx().table
}

/// A result as the linker has it.
fn told<T>(result: FsResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
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

/// A descriptor is in the table, and holds the place.
fn keep(store: &mut Store<'_>, descriptor: Descriptor, place: Place) -> FsResult<Resource<Descriptor>> {
    let number = table(store).push(descriptor.clone())?;
    store.data_mut().files().opened.add(number.rep(), &descriptor, place);
    Ok(number)
}

/// A guest drops a descriptor.
fn close(store: &mut Store<'_>, descriptor: Resource<Descriptor>) -> wasmtime::Result<()> {
    let number = descriptor.rep();
    let closed = table(store).delete(descriptor)?;
    store.data_mut().files().opened.remove(number, &closed);
    Ok(())
}

/// WASI has no name for this error; of those that it has, no room comes closest.
fn take_place(store: &mut Store<'_>) -> FsResult<Place> {
    let state = store.data_mut();
    let place = state.take_place();
    place.ok_or_else(|| ErrorCode::InsufficientMemory.into())
}

/// The folder, if paths in it may be resolved at once.
fn local(store: &mut Store<'_>, folder: &Resource<Descriptor>) -> FsResult<Option<Dir>> {
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

pub async fn stat_at(
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

/// There is no folder at `path`, as `error` says, but to guests there is one, by which a
/// database is locked.
async fn stands_for_lock(
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

async fn finds_lock(may_block: bool, folder: Arc<File>, path: String) -> io::Result<bool> {
    in_a_thread(may_block, move || Ok(locks::stands_for_lock(&folder, &path))).await
}

/// A folder in which the guest may make and remove.
fn folder_to_write(store: &mut Store<'_>, folder: &Resource<Descriptor>) -> FsResult<Option<Arc<File>>> {
    Ok(match table(store).get(folder)? {
        Descriptor::Dir(folder) if folder.perms == FsPerms::ReadWrite => Some(folder.dir.clone()),
        _ => None,
    })
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
    use wasmtime_wasi::{ResourceTable, WasiCtx};

    use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;

    use super::*;

    const FUNCTIONS: [&str; 22] = [
        "advise",
        "append-via-stream",
        "create-directory-at",
        "get-flags",
        "is-same-object",
        "link-at",
        "metadata-hash-at",
        "open-at",
        "read",
        "read-via-stream",
        "remove-directory-at",
        "rename-at",
        "set-size",
        "set-times",
        "set-times-at",
        "stat-at",
        "symlink-at",
        "sync",
        "sync-data",
        "unlink-file-at",
        "write",
        "write-via-stream",
    ];

    /// Under other names they would stand beside wasmtime's, unused.
    #[test]
    fn they_take_the_place_of_wasmtimes_own() {
        let engine = wasmtime::Engine::default();
        let (mut own, mut wasmtimes) = (Linker::new(&engine), Linker::new(&engine));
        define(&mut own.instance(INTERFACE).unwrap()).unwrap();
        wasmtime_wasi::p2::add_to_linker_async(&mut wasmtimes).unwrap();
        for function in FUNCTIONS {
            for linker in [&mut own, &mut wasmtimes] {
                let mut types = linker.instance(INTERFACE).unwrap();
                let added = types.func_wrap(&format!("[method]descriptor.{function}"), |_, ()| Ok(()));
                assert!(added.is_err(), "{function} was not there");
            }
        }
    }

    #[test]
    fn a_lock_lasts_until_what_is_under_way_is_done() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.db"), "").unwrap();
        let root = File::open(folder.path()).unwrap();
        let log = crate::telemetry::log::Log::open(None, Default::default()).unwrap();
        let (mut files, places) = (Files::default(), Arc::new(Places::new(2, 2)));
        let mut take = || files.opened.take(&places, &log).unwrap();
        let (lock, file) = (take(), take());
        assert_eq!(files.locks.make(&root, "a.db.lock", lock).unwrap(), locks::Made::Locked);
        let opened = File::open(folder.path().join("a.db")).unwrap();
        let opened = filesystem::File::new(opened, FsPerms::ReadWrite, OpenMode::WRITE, false);
        let under_way = opened.file.clone();
        files.opened.add(7, &Descriptor::File(opened), file);
        drop(files);
        assert!(locks::stands_for_lock(&root, "a.db.lock"));
        drop(under_way);
        while locks::stands_for_lock(&root, "a.db.lock") {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

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
