//! The folder: whose it may be, and what in it nobody else can have written.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::system::trusted_path::Way;

/// What a server that was killed left unfinished goes after this time.
const UNFINISHED_AGE: Duration = Duration::from_hours(24);
const UNFINISHED: &str = "unfinished-";
/// No file is larger.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// A folder in which, and on the way to which, nobody but this user and root can write.
/// So what a path in it names cannot be changed by others between two looks at it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Opens the folder, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Folder> {
        let way = Way::to(path)?;
        way.check()?;
        DirBuilder::new().recursive(true).mode(0o700).create(&way.end)?;
        let way = Way::to(&way.end)?;
        way.check()?;
        let metadata = fs::symlink_metadata(&way.end)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("others than this user can write there"));
        }
        let folder = Folder(way.end);
        folder.remove_unfinished();
        Ok(folder)
    }

    /// A folder that is removed with the value.
    pub(crate) fn temporary_folder(&self) -> io::Result<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o700)).tempdir_in(&self.0)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file that is removed with the value, unless it gets a name.
    pub(super) fn unfinished_file(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.0)
    }

    fn remove_unfinished(&self) {
        for (modified, path) in self.entries() {
            let is_unfinished =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
            if is_unfinished && modified.elapsed().is_ok_and(|age| age > UNFINISHED_AGE) {
                remove(&path);
            }
        }
    }

    pub(super) fn entries(&self) -> Vec<(SystemTime, PathBuf)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect()
    }
}

/// Another server may be removing the same.
pub(super) fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let _ = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Nobody else can have written it, or can write it by another name. Gives its size.
pub(super) fn check_file(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than this user can write it"));
    }
    if metadata.nlink() != 1 {
        return Err(io::Error::other(format!("it has {} names", metadata.nlink())));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is too large"));
    }
    Ok(metadata.len())
}
