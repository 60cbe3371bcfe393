//! How a path is resolved at once: as far as the system has the folders and names on the
//! way in memory. It says itself whether it would have to wait (`RESOLVE_CACHED` of
//! openat2(2)).

use std::fs::File;
use std::sync::{Arc, LazyLock};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;

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

/// The system knows what it is asked here and in `content`. Linux does from 5.12 on; 5.9 and
/// 5.10 take content for which they would have to wait for the end of the file (preadv2(2),
/// "Bugs").
pub(crate) static SYSTEM_TELLS: LazyLock<bool> = LazyLock::new(|| {
    let known = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::CACHED);
    known.is_ok()
});

/// The folders that are given to guests, in this order.
pub(crate) fn folders(files: &mut WasiFilesystemCtx) -> wasmtime::Result<Vec<Dir>> {
    let mut table = ResourceTable::new();
    let mut folders = Vec::new();
    for (folder, _) in (WasiFilesystemCtxView { ctx: files, table: &mut table }).get_directories()? {
        if let Descriptor::Dir(folder) = table.delete(folder)? {
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// Those of them in which paths may be resolved at once.
pub(crate) fn local_folders(files: &mut WasiFilesystemCtx) -> wasmtime::Result<Vec<Arc<File>>> {
    let is_local = |folder: &Dir| {
        fstatfs(&folder.dir).is_ok_and(|filesystem| LOCAL.contains(&(filesystem.f_type as u32)))
    };
    let folders = if *SYSTEM_TELLS { folders(files)? } else { Vec::new() };
    Ok(folders.into_iter().filter(is_local).map(|folder| folder.dir).collect())
}

/// What is at a path.
pub(crate) enum Found {
    Something(File),
    Nothing,
    /// The system would have to wait, or the path is none that it could resolve.
    Unknown,
}

/// Opens what is at `path` in `folder`. A link as the last name is followed if that is
/// asked for; none leads out of the folder.
pub(crate) fn find(folder: &File, path: &str, follow: bool, how: OFlags) -> Found {
    if !follow && path.ends_with(['/', '.']) {
        // The system follows a link that has a slash after it in any case, wasmtime not.
        return Found::Unknown;
    }
    let mut how = how | OFlags::CLOEXEC;
    how.set(OFlags::NOFOLLOW, !follow);
    // Another filesystem may be mounted in the folder.
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV | ResolveFlags::CACHED;
    match openat2(folder, path, how, Mode::empty(), resolve) {
        Ok(file) => Found::Something(File::from(file)),
        Err(Errno::NOENT) => Found::Nothing,
        Err(_) => Found::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{AtFlags, Timespec, Timestamps, utimensat};
    use wasmtime::component::Resource;
    use wasmtime_wasi::WasiCtx;
    use wasmtime_wasi::filesystem::{self, FsPerms, OpenMode};
    use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, HostDescriptor, PathFlags};

    use super::*;

    /// Paths in a folder that has `file`, `in/file`, and links.
    const PATHS: [&str; 29] = [
        "file",
        "in",
        "in/",
        "in/file",
        "in/../file",
        "in/./file",
        "./file",
        "in//file",
        ".",
        "",
        "/",
        "file/",
        "file/x",
        "missing",
        "missing/",
        "missing/file",
        "missing/../file",
        "in/missing",
        "link",
        "link/",
        "in/up",
        "folder",
        "folder/",
        "folder/.",
        "folder/file",
        "dangling",
        "dangling/",
        "loop",
        "nul\0",
    ];

    const OUTSIDE: [&str; 7] = ["..", "../folder", "in/../..", "out", "out/passwd", "in/far", "/etc/passwd"];

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("in")).unwrap();
        fs::write(path.join("file"), "content").unwrap();
        fs::write(path.join("in/file"), "inner").unwrap();
        for (target, link) in [
            ("file", "link"),
            ("../file", "in/up"),
            ("in", "folder"),
            ("missing", "dangling"),
            ("loop", "loop"),
            ("/etc", "out"),
            ("../../x", "in/far"),
        ] {
            symlink(target, path.join(link)).unwrap();
            // The system waits to note that a link was read, unless that is noted already.
            let read = Timespec { tv_sec: 1 << 32, tv_nsec: 0 };
            let times = Timestamps { last_access: read, last_modification: read };
            utimensat(CWD, path.join(link), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn what_is_found_at_once_is_what_wasmtime_finds() {
        let folder = folder();
        let mut builder = WasiCtx::builder();
        builder.preopened_dir(folder.path(), "/", FsPerms::ReadOnly).unwrap();
        let mut wasi = builder.build();
        let mut table = ResourceTable::new();
        let mut files = WasiFilesystemCtxView { ctx: wasi.filesystem(), table: &mut table };
        let (opened, _) = files.get_directories().unwrap().remove(0);
        let Descriptor::Dir(own) = files.table.get(&opened).unwrap().clone() else { panic!() };
        let mut something = 0;
        let mut nothing = 0;
        for path in PATHS.iter().chain(&OUTSIDE) {
            for flags in [PathFlags::SYMLINK_FOLLOW, PathFlags::empty()] {
                let this = || Resource::new_borrow(opened.rep());
                let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
                let stat = files.stat_at(this(), flags, path.to_string()).await;
                match find(&own.dir, path, follow, OFlags::PATH) {
                    Found::Something(file) => {
                        something += 1;
                        let found = filesystem::File::new(file, FsPerms::ReadOnly, OpenMode::empty(), true);
                        let found = files.table.push(Descriptor::File(found)).unwrap();
                        let found = || Resource::new_borrow(found.rep());
                        let own = files.stat(found()).await.unwrap();
                        assert_eq!(format!("{own:?}"), format!("{:?}", stat.unwrap()), "{path}");
                        let own = files.metadata_hash(found()).await.unwrap();
                        let hash = files.metadata_hash_at(this(), flags, path.to_string()).await.unwrap();
                        assert_eq!((own.lower, own.upper), (hash.lower, hash.upper), "{path}");
                    }
                    Found::Nothing => {
                        nothing += 1;
                        let error = stat.unwrap_err().downcast().unwrap();
                        assert_eq!(error, ErrorCode::NoEntry, "{path}");
                    }
                    Found::Unknown => {}
                }
            }
        }
        assert!(something > 20 && nothing > 8, "{something} found, {nothing} missing");
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let folder = folder();
        let opened = File::open(folder.path()).unwrap();
        for path in OUTSIDE {
            for how in [OFlags::PATH, OFlags::RDONLY] {
                assert!(matches!(find(&opened, path, true, how), Found::Unknown), "{path}");
            }
        }
    }
}
