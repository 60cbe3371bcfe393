//! A folder of files that are kept from one start to the next: whose it may be, how a
//! file gets into it, and which files go.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What a server that was killed left unfinished goes after this time.
const UNFINISHED_AGE: Duration = Duration::from_hours(24);
const UNFINISHED: &str = "unfinished-";

/// The folder. It may be used by many servers at once.
pub struct Cache {
    folder: PathBuf,
    /// Files of one extension that are kept; of more, the longest unused go.
    files_max: usize,
}

impl Cache {
    /// Opens the folder, or makes it. What lies in it is run: so nobody else may be
    /// able to write there.
    pub fn open(folder: &Path, files_max: usize) -> io::Result<Cache> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = folder.metadata()?;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_ours || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("others than this user can write there"));
        }
        let cache = Cache { folder: folder.to_owned(), files_max };
        cache.remove_unfinished();
        Ok(cache)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A folder that is removed with the value.
    pub fn temporary_folder(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.folder)
    }

    /// Notes that a file is used. False if it is not there.
    pub fn note_use(&self, name: &str) -> bool {
        let file = File::options().append(true).open(self.path(name));
        file.and_then(|file| file.set_modified(SystemTime::now())).is_ok()
    }

    /// Keeps a file. It has its whole content when it gets its name, since others may
    /// be looking for it, or be keeping the same one.
    pub fn keep(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let mut unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        unfinished.write_all(content)?;
        unfinished.persist(self.path(name))?;
        let path = self.path(name);
        if let Some(extension) = path.extension().and_then(|extension| extension.to_str()) {
            self.remove_longest_unused(extension);
        }
        Ok(path)
    }

    /// Another server may be removing the same ones.
    fn remove_longest_unused(&self, extension: &str) {
        let mut files = self.entries();
        files.retain(|(_, path)| path.extension().is_some_and(|known| known == extension));
        files.sort();
        let surplus = files.len().saturating_sub(self.files_max);
        for (_, path) in &files[..surplus] {
            let _ = fs::remove_file(path);
        }
    }

    fn remove_unfinished(&self) {
        for (modified, path) in self.entries() {
            let is_unfinished =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
            if is_unfinished && modified.elapsed().is_ok_and(|age| age > UNFINISHED_AGE) {
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
    }

    fn entries(&self) -> Vec<(SystemTime, PathBuf)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 2).unwrap();
        for name in ["a.x", "b.x", "c.y"] {
            cache.keep(name, b"").unwrap();
            let age = Duration::from_secs(if name == "a.x" { 20 } else { 30 });
            let file = File::options().append(true).open(cache.path(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        assert!(cache.note_use("b.x"));
        cache.keep("d.x", b"").unwrap();
        let is_there = |name: &str| cache.path(name).exists();
        assert_eq!(["a.x", "b.x", "c.y", "d.x"].map(is_there), [false, true, true, true]);
        assert!(!cache.note_use("a.x"));
    }

    #[test]
    fn a_folder_in_which_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(folder.path(), 1).is_err());
    }
}
