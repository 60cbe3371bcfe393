//! How folders are listed by WASI 0.2.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::FileType;
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::descriptors::{Store, table, take_place, told};
use crate::sandbox::files::disk::in_a_thread;
use crate::sandbox::files::entries::{self, Entry};
use crate::sandbox::files::places::Place;
use crate::sandbox::state::State;

/// `directory-entry-stream` of WASI 0.2.
struct Listing {
    folder: Arc<File>,
    ready: VecDeque<Entry>,
    _place: Place,
}

pub(super) fn define(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    types.resource("directory-entry-stream", ResourceType::host::<Listing>(), |mut store, listing| {
        table(&mut store).delete(Resource::<Listing>::new_own(listing))?;
        Ok(())
    })?;
    types.func_wrap_async("[method]descriptor.read-directory", |mut store, (folder,)| {
        Box::new(async move { told(read_directory(&mut store, folder).await) })
    })?;
    types.func_wrap_async("[method]directory-entry-stream.read-directory-entry", |mut store, (listing,)| {
        Box::new(async move { told(next(&mut store, listing).await) })
    })
}

async fn read_directory(store: &mut Store<'_>, folder: Resource<Descriptor>) -> FsResult<Resource<Listing>> {
    let may_block = store.data().server.blocking_files;
    let folder = match table(store).get(&folder)? {
        Descriptor::Dir(folder) => folder.dir.clone(),
        Descriptor::File(_) => return Err(ErrorCode::NotDirectory.into()),
    };
    let place = take_place(store)?;
    let opened = in_a_thread(may_block, move || entries::open(&folder)).await?;
    let listing = Listing { folder: Arc::new(opened), ready: VecDeque::new(), _place: place };
    Ok(table(store).push(listing)?)
}

async fn next(store: &mut Store<'_>, listing: Resource<Listing>) -> FsResult<Option<DirectoryEntry>> {
    loop {
        if table(store).get(&listing)?.ready.is_empty() {
            let may_block = store.data().server.blocking_files;
            let folder = table(store).get(&listing)?.folder.clone();
            let read = in_a_thread(may_block, move || entries::read(&folder)).await?;
            if read.is_empty() {
                return Ok(None);
            }
            table(store).get_mut(&listing)?.ready.extend(read);
        }
        let Some(entry) = table(store).get_mut(&listing)?.ready.pop_front() else { continue };
        match entry.name {
            None => return Err(ErrorCode::IllegalByteSequence.into()),
            Some(name) if name == "." || name == ".." => {}
            Some(name) => return Ok(Some(DirectoryEntry { type_: descriptor_type(entry.kind), name })),
        }
    }
}

fn descriptor_type(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        // As wasmtime has it.
        FileType::Fifo | FileType::Socket | FileType::Unknown => DescriptorType::Unknown,
    }
}
