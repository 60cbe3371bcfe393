//! What may wait for a disk is done in a thread that may block, and is not interrupted
//! there: a guest that is ended meanwhile keeps its locks until it is done.

use std::fs::File;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::task::spawn_blocking;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::filesystem::{
    self, Descriptor, Dir, FsPerms, OpenMode, WasiFilesystemCtx, WasiFilesystemCtxView,
};
use wasmtime_wasi::p2::FsResult;

use super::Store;

/// Descriptors for which wasmtime does all at once. There is no other way to say so of one
/// that is open.
pub struct AtOnce {
    file: filesystem::File,
    folder: Dir,
    /// Opens others as those of guests are.
    context: WasiFilesystemCtx,
}

impl AtOnce {
    pub fn new(blocking_files: bool) -> io::Result<AtOnce> {
        let opened = || File::open("/");
        let mut wasi = WasiCtx::builder().allow_blocking_current_thread(blocking_files).build();
        Ok(AtOnce {
            file: filesystem::File::new(opened()?, FsPerms::ReadOnly, OpenMode::empty(), true),
            folder: Dir::new(opened()?, FsPerms::ReadOnly, OpenMode::empty(), true),
            context: wasmtime_wasi::filesystem::WasiFilesystemCtx::clone(wasi.filesystem()),
        })
    }

    fn descriptor(&self, like: &Descriptor) -> Descriptor {
        match like {
            Descriptor::File(like) => {
                let mut file = self.file.clone();
                (file.file, file.perms, file.open_mode) = (like.file.clone(), like.perms, like.open_mode);
                Descriptor::File(file)
            }
            Descriptor::Dir(like) => {
                let mut folder = self.folder.clone();
                (folder.dir, folder.perms, folder.open_mode) = (like.dir.clone(), like.perms, like.open_mode);
                Descriptor::Dir(folder)
            }
        }
    }
}

/// Does `work` with wasmtime's implementation and `descriptors`, for which that waits for
/// nothing but the disk.
pub async fn with<const N: usize, T: Send + 'static>(
    store: &mut Store<'_>,
    descriptors: [&Resource<Descriptor>; N],
    work: impl FnOnce(&mut WasiFilesystemCtxView<'_>, [Resource<Descriptor>; N]) -> FsResult<T> + Send + 'static,
) -> FsResult<T> {
    let (server, locks) = (store.data().server.clone(), store.data_mut().files().locks.clone());
    let table = super::table(store);
    let mut copies = ResourceTable::new();
    let mut made = Vec::with_capacity(N);
    for descriptor in descriptors {
        made.push(copies.push(server.at_once.descriptor(table.get(descriptor)?))?);
    }
    let made = made.try_into().unwrap_or_else(|_| unreachable!("there is one for each"));
    let mut context = server.at_once.context.clone();
    let work = move || {
        let _until_done = locks;
        Ok(work(&mut WasiFilesystemCtxView { ctx: &mut context, table: &mut copies }, made))
    };
    in_a_thread(server.blocking_files, work).await?
}

/// What `future` gives, which waits for nothing.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("all is done at once with these descriptors"),
    }
}

/// What may wait for a disk: in a thread that may, unless this one may, too.
pub async fn in_a_thread<T: Send + 'static>(
    may_block: bool,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match may_block {
        true => work(),
        false => spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))),
    }
}
