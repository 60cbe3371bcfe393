//! What may wait for a disk is done in a thread that may block.

use std::fs::File;
use std::io;

use tokio::task::spawn_blocking;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::filesystem::{self, Descriptor, Dir, FsPerms, OpenMode, WasiFilesystemCtx};

/// Descriptors for which wasmtime does all at once. There is no other way to say so of one
/// that is open.
pub(crate) struct AtOnce {
    file: filesystem::File,
    folder: Dir,
    /// Opens others as those of guests are.
    context: WasiFilesystemCtx,
}

impl AtOnce {
    pub(crate) fn new(blocking_files: bool) -> io::Result<AtOnce> {
        let opened = || File::open("/");
        let mut wasi = WasiCtx::builder().allow_blocking_current_thread(blocking_files).build();
        Ok(AtOnce {
            file: filesystem::File::new(opened()?, FsPerms::ReadOnly, OpenMode::empty(), true),
            folder: Dir::new(opened()?, FsPerms::ReadOnly, OpenMode::empty(), true),
            context: wasi.filesystem().clone(),
        })
    }

    /// With which wasmtime's implementation opens others as those of guests are.
    pub(crate) fn context(&self) -> WasiFilesystemCtx {
        self.context.clone()
    }

    /// The same file or folder.
    pub(crate) fn descriptor(&self, like: &Descriptor) -> Descriptor {
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

/// What may wait for a disk: in a thread that may, unless this one may, too.
pub(crate) async fn in_a_thread<T: Send + 'static>(
    may_block: bool,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match may_block {
        true => work(),
        false => spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))),
    }
}
