//! `wasi:filesystem` 0.3, as far as it is ours: what is open is counted, folders are listed
//! piece by piece, and SQLite's folders are locks. wasmtime does the rest.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::FileType;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, Destination, FutureReader, Linker, LinkerInstance, Resource, ResourceType, StreamProducer,
    StreamReader, StreamResult, VecBuffer,
};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, FsPerms, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, HostDescriptorWithStore,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

use super::changes;
use super::descriptors::{Store, close, finds_lock, table};
use crate::sandbox::files::disk::in_a_thread;
use crate::sandbox::files::entries::{self, Entry};
use crate::sandbox::files::locks::{self, Made};
use crate::sandbox::files::places::Place;
use crate::sandbox::state::State;

const INTERFACE: &str = "wasi:filesystem/types@0.3.0";

/// Takes the place of wasmtime's functions.
pub(super) fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let types = &mut linker.instance(INTERFACE)?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, descriptor| {
        close(&mut store, Resource::new_own(descriptor))
    })?;
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |accessor: &Accessor<State>, (folder, follow, path, how, flags)| {
            Box::pin(async move { told(open_at(accessor, folder, follow, path, how, flags).await) })
        },
    )?;
    types.func_wrap("[method]descriptor.read-directory", |mut store: Store<'_>, (folder,)| {
        Ok((read_directory(&mut store, folder)?,))
    })?;
    define_locks(types)
}

fn define_locks(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    types.func_wrap_concurrent(
        "[method]descriptor.create-directory-at",
        |accessor: &Accessor<State>, (folder, path)| {
            Box::pin(async move { told(create_directory_at(accessor, folder, path).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.remove-directory-at",
        |accessor: &Accessor<State>, (folder, path)| {
            Box::pin(async move { told(remove_directory_at(accessor, folder, path).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.stat-at",
        |accessor: &Accessor<State>, (folder, follow, path)| {
            Box::pin(async move { told(stat_at(accessor, folder, follow, path).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.metadata-hash-at",
        |accessor: &Accessor<State>, (folder, follow, path)| {
            Box::pin(async move { told(metadata_hash_at(accessor, folder, follow, path).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.set-times-at",
        |accessor: &Accessor<State>, (folder, follow, path, accessed, modified)| {
            Box::pin(
                async move { told(set_times_at(accessor, folder, follow, path, accessed, modified).await) },
            )
        },
    )
}

fn told<T>(result: FilesystemResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// The same, for wasmtime's implementation.
fn wasmtimes(accessor: &Accessor<State>) -> Accessor<State, WasiFilesystem> {
    accessor.with_getter::<WasiFilesystem>(<State as WasiFilesystemView>::filesystem)
}

fn same<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

fn take_place(state: &mut State) -> Result<Place, ErrorCode> {
    state.take_place().ok_or(ErrorCode::InsufficientMemory)
}

async fn open_at(
    accessor: &Accessor<State>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    how: OpenFlags,
    flags: DescriptorFlags,
) -> FilesystemResult<Resource<Descriptor>> {
    let place = accessor.with(|mut store| take_place(store.get()))?;
    let opened = WasiFilesystem::open_at(&wasmtimes(accessor), folder, follow, path, how, flags).await?;
    accessor.with(|mut store| {
        let state = store.get();
        let descriptor = state.ctx().table.get(&opened)?.clone();
        state.files().opened.add(opened.rep(), &descriptor, place);
        FilesystemResult::Ok(())
    })?;
    Ok(opened)
}

/// A folder in which the guest may find, or make, what stands for a lock.
fn folder(accessor: &Accessor<State>, folder: &Resource<Descriptor>) -> Option<(Arc<File>, FsPerms)> {
    accessor.with(|mut store| match store.get().ctx().table.get(folder) {
        Ok(Descriptor::Dir(folder)) => Some((folder.dir.clone(), folder.perms)),
        _ => None,
    })
}

async fn create_directory_at(
    accessor: &Accessor<State>,
    descriptor: Resource<Descriptor>,
    path: String,
) -> FilesystemResult<()> {
    if locks::database(&path).is_some()
        && let Some((folder, FsPerms::ReadWrite)) = folder(accessor, &descriptor)
    {
        let (server, locks, place) = accessor.with(|mut store| {
            let state = store.get();
            (state.server.clone(), state.files().locks.clone(), take_place(state))
        });
        let made = changes::lock(&server, locks, folder, path.clone(), place?).await;
        match made.map_err(ErrorCode::from)? {
            Made::Locked | Made::LockedInPlaceOfFolder => return Ok(()),
            Made::Exists => return Err(ErrorCode::Exist.into()),
            Made::NotALock => {}
        }
    }
    WasiFilesystem::create_directory_at(&wasmtimes(accessor), descriptor, path).await
}

async fn remove_directory_at(
    accessor: &Accessor<State>,
    descriptor: Resource<Descriptor>,
    path: String,
) -> FilesystemResult<()> {
    if locks::database(&path).is_some()
        && let Some((folder, FsPerms::ReadWrite)) = folder(accessor, &descriptor)
    {
        let (may_block, locks) = accessor.with(|mut store| {
            let state = store.get();
            (state.server.blocking_files, state.files().locks.clone())
        });
        let of_lock = path.clone();
        let ended = in_a_thread(may_block, move || locks.remove(&folder, &of_lock)).await;
        if ended.map_err(ErrorCode::from)? {
            return Ok(());
        }
    }
    match WasiFilesystem::remove_directory_at(&wasmtimes(accessor), same(&descriptor), path.clone()).await {
        Err(error) if stands_for_lock(accessor, &descriptor, &path, error.downcast_ref()).await? => {
            Err(ErrorCode::Busy.into())
        }
        removed => removed,
    }
}

async fn stat_at(
    accessor: &Accessor<State>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
) -> FilesystemResult<DescriptorStat> {
    match WasiFilesystem::stat_at(&wasmtimes(accessor), same(&folder), follow, path.clone()).await {
        Err(error) if stands_for_lock(accessor, &folder, &path, error.downcast_ref()).await? => {
            Ok(DescriptorStat {
                type_: DescriptorType::Directory,
                link_count: 2,
                size: 0,
                data_access_timestamp: None,
                data_modification_timestamp: None,
                status_change_timestamp: None,
            })
        }
        stat => stat,
    }
}

async fn metadata_hash_at(
    accessor: &Accessor<State>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
) -> FilesystemResult<MetadataHashValue> {
    let wasmtimes = wasmtimes(accessor);
    match WasiFilesystem::metadata_hash_at(&wasmtimes, same(&folder), follow, path.clone()).await {
        Err(error) if stands_for_lock(accessor, &folder, &path, error.downcast_ref()).await? => {
            let database = locks::database(&path).unwrap_or_default().to_owned();
            let hash =
                WasiFilesystem::metadata_hash_at(&wasmtimes, folder, PathFlags::SYMLINK_FOLLOW, database)
                    .await?;
            Ok(MetadataHashValue { lower: !hash.lower, upper: !hash.upper })
        }
        hash => hash,
    }
}

async fn set_times_at(
    accessor: &Accessor<State>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    accessed: NewTimestamp,
    modified: NewTimestamp,
) -> FilesystemResult<()> {
    let wasmtimes = wasmtimes(accessor);
    let set =
        WasiFilesystem::set_times_at(&wasmtimes, same(&folder), follow, path.clone(), accessed, modified);
    match set.await {
        Err(error) if stands_for_lock(accessor, &folder, &path, error.downcast_ref()).await? => Ok(()),
        set => set,
    }
}

/// See the same for 0.2.
async fn stands_for_lock(
    accessor: &Accessor<State>,
    descriptor: &Resource<Descriptor>,
    path: &str,
    error: Option<&ErrorCode>,
) -> FilesystemResult<bool> {
    if !matches!(error, Some(ErrorCode::NoEntry)) || locks::database(path).is_none() {
        return Ok(false);
    }
    let Some((folder, _)) = folder(accessor, descriptor) else { return Ok(false) };
    let may_block = accessor.with(|mut store| store.get().server.blocking_files);
    Ok(finds_lock(may_block, folder, path.to_owned()).await.map_err(ErrorCode::from)?)
}

type Listed = (StreamReader<DirectoryEntry>, FutureReader<Result<(), ErrorCode>>);

fn read_directory(store: &mut Store<'_>, descriptor: Resource<Descriptor>) -> wasmtime::Result<Listed> {
    let (told, result) = oneshot::channel();
    let folder = match table(store).get(&descriptor)? {
        Descriptor::Dir(folder) => Ok(folder.dir.clone()),
        Descriptor::File(_) => Err(ErrorCode::NotDirectory),
    };
    let listing = folder.and_then(|folder| Ok((folder, take_place(store.data_mut())?)));
    let entries = match listing {
        Ok((folder, place)) => {
            let at = Position::Start(folder);
            let producer = Listing { at: Some(at), reading: None, told: Some(told), _place: place };
            StreamReader::new(&mut *store, producer)?
        }
        Err(error) => {
            let _ = told.send(Err(error));
            StreamReader::new(&mut *store, std::iter::empty())?
        }
    };
    Ok((entries, FutureReader::new(&mut *store, result)?))
}

/// Where the next entries are.
enum Position {
    Start(Arc<File>),
    /// In a folder that is opened for this listing.
    Next(Arc<File>),
}

type Piece = io::Result<(Arc<File>, Vec<Entry>)>;

/// A listing under way. It holds no thread while nobody reads it.
struct Listing {
    at: Option<Position>,
    reading: Option<JoinHandle<Piece>>,
    told: Option<oneshot::Sender<Result<(), ErrorCode>>>,
    _place: Place,
}

impl Listing {
    fn end(&mut self, result: Result<(), ErrorCode>) -> StreamResult {
        if let Some(told) = self.told.take() {
            let _ = told.send(result);
        }
        StreamResult::Dropped
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

impl StreamProducer<State> for Listing {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, State>,
        mut into: Destination<'a, DirectoryEntry, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if into.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        loop {
            if self.reading.is_none() {
                let Some(at) = self.at.take() else { return Poll::Ready(Ok(StreamResult::Dropped)) };
                self.reading = Some(spawn_blocking(move || read(at)));
            }
            let Some(reading) = &mut self.reading else { continue };
            let piece = match Pin::new(reading).poll(cx) {
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                piece => ready!(piece),
            };
            self.reading = None;
            let (folder, entries) = match piece.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(Ok(self.end(Err(error.into())))),
            };
            if entries.is_empty() {
                return Poll::Ready(Ok(self.end(Ok(()))));
            }
            self.at = Some(Position::Next(folder));
            let (given, is_text) = given(entries);
            let is_empty = given.is_empty();
            into.set_buffer(given.into());
            if !is_text {
                return Poll::Ready(Ok(self.end(Err(ErrorCode::IllegalByteSequence))));
            }
            if !is_empty {
                return Poll::Ready(Ok(StreamResult::Completed));
            }
        }
    }
}

fn read(at: Position) -> Piece {
    let folder = match at {
        Position::Start(folder) => Arc::new(entries::open(&folder)?),
        Position::Next(folder) => folder,
    };
    let read = entries::read(&folder)?;
    Ok((folder, read))
}

/// Up to the first name that WASI cannot tell, and whether there is none.
fn given(entries: Vec<Entry>) -> (Vec<DirectoryEntry>, bool) {
    let mut given = Vec::new();
    for entry in entries {
        match entry.name {
            None => return (given, false),
            Some(name) if name == "." || name == ".." => {}
            Some(name) => given.push(DirectoryEntry { type_: descriptor_type(entry.kind), name }),
        }
    }
    (given, true)
}

fn descriptor_type(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::Unknown => DescriptorType::Other(None),
    }
}
