//! `wasi:filesystem`, as far as it is ours: what does not have to wait for a disk is done
//! at once, in the thread that runs the guest. wasmtime hands all of it to a thread that
//! may block, and the two switches between threads cost more than the rest of a small
//! file. Only what the system has in memory is done here; it says so itself.

mod content;

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceTable};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{
    self, Descriptor, OpenMode, WasiFilesystemCtx, WasiFilesystemCtxView, WasiFilesystemView,
};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, ErrorCode, HostDescriptor, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, FsResult};

use self::content::Content;
use crate::state::State;

/// The name under which wasmtime offers it.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// Filesystems whose files are opened without asking another computer or process, by the
/// numbers of `linux/magic.h`: ext2 to ext4, XFS, Btrfs, F2FS, ZFS, tmpfs, overlayfs,
/// SquashFS, EROFS.
const LOCAL: [u32; 9] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0x0102_1994,
    0x794c_7630,
    0x7371_7368,
    0xe0f5_e1e2,
];

/// Those of the folders that are given to guests whose files may be opened at once.
pub fn local_folders(files: &mut WasiFilesystemCtx) -> wasmtime::Result<Vec<Arc<File>>> {
    let mut table = ResourceTable::new();
    let mut local = Vec::new();
    for (folder, _) in (WasiFilesystemCtxView { ctx: files, table: &mut table }).get_directories()? {
        if let Descriptor::Dir(folder) = table.delete(folder)?
            && fstatfs(&folder.dir).is_ok_and(|filesystem| LOCAL.contains(&(filesystem.f_type as u32)))
        {
            local.push(folder.dir);
        }
    }
    Ok(local)
}

/// Takes the place of wasmtime's functions.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let defined = define(&mut linker.instance(INTERFACE)?);
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
    types.func_wrap_async("[method]descriptor.read", |mut store, (file, bytes, offset)| {
        Box::new(async move { told(read(&mut store, file, bytes, offset).await) })
    })?;
    // wasmtime does at once whatever a guest does with a file that was opened at once.
    // Of what can be done with one that is not opened to be written, these may wait.
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
    })
}

type Store<'a> = StoreContextMut<'a, State>;

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

async fn open_at(
    store: &mut Store<'_>,
    folder: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    how: OpenFlags,
    flags: DescriptorFlags,
) -> FsResult<Resource<Descriptor>> {
    let server = store.data().server.clone();
    let mut files = store.data_mut().filesystem();
    let mut other = None;
    if let Descriptor::Dir(folder) = files.table.get(&folder)?
        && server.local_folders.iter().any(|local| Arc::ptr_eq(local, &folder.dir))
        && how == OpenFlags::empty()
        && (DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY).contains(flags)
    {
        match open_at_once(&folder.dir, &path, follow.contains(PathFlags::SYMLINK_FOLLOW)) {
            Ok(Opened::Regular(file)) => {
                let file = filesystem::File::new(file, folder.perms, OpenMode::READ, true);
                return Ok(files.table.push(Descriptor::File(file))?);
            }
            Ok(Opened::Other(file)) => other = Some(file),
            Err(_) => {}
        }
    }
    let opened = files.open_at(folder, follow, path, how, flags).await;
    // Whoever waited for a reader of a named pipe has one all the time.
    drop(other);
    opened
}

enum Opened {
    Regular(File),
    /// A folder, a named pipe, a device.
    Other(File),
}

/// Opens a file to be read. An error may be no more than that the system would have to
/// wait.
fn open_at_once(folder: &File, path: &str, follow: bool) -> io::Result<Opened> {
    let mut how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    how.set(OFlags::NOFOLLOW, !follow);
    // Another filesystem may be mounted in the folder.
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV | ResolveFlags::CACHED;
    let file = File::from(openat2(folder, path, how, Mode::empty(), resolve)?);
    let is_regular = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
    Ok(if is_regular { Opened::Regular(file) } else { Opened::Other(file) })
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
    if let Descriptor::File(file) = store.data_mut().ctx().table.get(&file)?
        && let Some(read) =
            content::read_at_once(&file.file, usize::try_from(bytes).unwrap_or(usize::MAX), offset)
    {
        let is_over = read.is_empty();
        return Ok((read.into(), is_over));
    }
    waiting(store, &file)?.read(file, bytes, offset).await
}

async fn advise(
    store: &mut Store<'_>,
    file: Resource<Descriptor>,
    offset: u64,
    bytes: u64,
    advice: Advice,
) -> FsResult<()> {
    waiting(store, &file)?.advise(file, offset, bytes, advice).await
}

async fn set_times(
    store: &mut Store<'_>,
    file: Resource<Descriptor>,
    accessed: NewTimestamp,
    modified: NewTimestamp,
) -> FsResult<()> {
    waiting(store, &file)?.set_times(file, accessed, modified).await
}

async fn sync(store: &mut Store<'_>, file: Resource<Descriptor>) -> FsResult<()> {
    waiting(store, &file)?.sync(file).await
}

async fn sync_data(store: &mut Store<'_>, file: Resource<Descriptor>) -> FsResult<()> {
    waiting(store, &file)?.sync_data(file).await
}

/// What wasmtime does with `file` from here on, it does in a thread that may block.
fn waiting<'a>(store: &'a mut Store<'_>, file: &Resource<Descriptor>) -> FsResult<WasiFilesystemCtxView<'a>> {
    let may_block = store.data().server.blocking_files;
    let files = store.data_mut().filesystem();
    if let Descriptor::File(file) = files.table.get_mut(file)?
        && !may_block
    {
        // Whether it does not do so already cannot be asked.
        *file = filesystem::File::new(file.file.try_clone()?, file.perms, file.open_mode, false);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use wasmtime_wasi::WasiCtx;
    use wasmtime_wasi::filesystem::FsPerms;

    use super::*;

    const FUNCTIONS: [&str; 8] =
        ["advise", "get-flags", "open-at", "read", "read-via-stream", "set-times", "sync", "sync-data"];

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

    #[test]
    fn only_regular_files_in_the_folder_are_opened_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("in")).unwrap();
        std::fs::write(path.join("file"), "content").unwrap();
        std::fs::write(path.join("in/file"), "inner").unwrap();
        symlink("file", path.join("link")).unwrap();
        symlink("/etc/passwd", path.join("in/out")).unwrap();
        let opened = |below: &str, path: &str, follow| {
            open_at_once(&File::open(folder.path().join(below)).unwrap(), path, follow)
        };
        let content = |opened| match opened {
            Ok(Opened::Regular(file)) => std::io::read_to_string(file).unwrap(),
            _ => panic!("it was not opened"),
        };
        assert_eq!(content(opened("", "file", true)), "content");
        assert_eq!(content(opened("in", "file", false)), "inner");
        assert!(opened("", "link", false).is_err());
        assert!(matches!(opened("", "in", true), Ok(Opened::Other(_))));
        for outside in ["in/out", "/etc/passwd", "..", "../file"] {
            assert!(opened("", outside, true).is_err(), "{outside}");
        }
    }
}
