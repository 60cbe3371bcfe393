//! What may wait for a disk is done in a thread that may block, and is not interrupted
//! there: a guest that is ended meanwhile keeps its locks until it is done.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::FsResult;

use super::descriptors::{self, Store};
use crate::sandbox::files::disk::in_a_thread;

/// Does `work` with wasmtime's implementation and `descriptors`, for which that waits for
/// nothing but the disk.
pub(super) async fn with<const N: usize, T: Send + 'static>(
    store: &mut Store<'_>,
    descriptors: [&Resource<Descriptor>; N],
    work: impl FnOnce(&mut WasiFilesystemCtxView<'_>, [Resource<Descriptor>; N]) -> FsResult<T> + Send + 'static,
) -> FsResult<T> {
    let (server, locks) = (store.data().server.clone(), store.data_mut().files().locks.clone());
    let table = descriptors::table(store);
    let mut copies = ResourceTable::new();
    let mut made = Vec::with_capacity(N);
    for descriptor in descriptors {
        made.push(copies.push(server.at_once.descriptor(table.get(descriptor)?))?);
    }
    let made = made.try_into().unwrap_or_else(|_| unreachable!("there is one for each"));
    let mut context = server.at_once.context();
    let work = move || {
        let _until_done = locks;
        Ok(work(&mut WasiFilesystemCtxView { ctx: &mut context, table: &mut copies }, made))
    };
    in_a_thread(server.blocking_files, work).await?
}

/// What `future` gives, which waits for nothing.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("all is done at once with these descriptors"),
    }
}
