//! The file that says where a server serves (`--print-address`), for scripts that wait for it.
//! It is there while requests are taken: not before, and no longer once the server stops.

use std::cell::Cell;
use std::fs::{self, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::file;

/// Longer than any of ours, of which a path of a socket has at most 108 bytes.
const BYTES_MAX: u64 = 4096;

/// The file, which goes with the value.
pub(crate) struct AddressFile {
    path: PathBuf,
    /// The device and number of the file that was written: another server may have put its
    /// own in its place.
    written: Cell<Option<(u64, u64)>>,
}

impl AddressFile {
    /// Removes what a server that was killed has left. Nothing else is taken for that.
    pub(crate) fn begin(path: &Path) -> Result<AddressFile> {
        let named = || format!("--print-address {}", path.display());
        let text = match file::open(path) {
            Ok(file) => {
                let mut text = Vec::new();
                file.take(BYTES_MAX).read_to_end(&mut text).with_context(named)?;
                text
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(AddressFile::new(path)),
            Err(error) => return Err(error).with_context(named),
        };
        let is_ours = text.is_empty() || text.starts_with(b"http://") || text.starts_with(b"unix:");
        ensure!(is_ours, "{}: has something else in it; name another file", named());
        fs::remove_file(path).with_context(named)?;
        Ok(AddressFile::new(path))
    }

    fn new(path: &Path) -> AddressFile {
        AddressFile { path: path.to_owned(), written: Cell::new(None) }
    }

    /// Who finds it finds all of it.
    pub(crate) fn write(&self, urls: &[&str]) -> Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let written = || {
            let mut unfinished = file::unfinished().tempfile_in(folder.unwrap_or(Path::new(".")))?;
            urls.iter().try_for_each(|url| writeln!(unfinished, "{url}"))?;
            self.written.set(Some(identity(&unfinished.as_file().metadata()?)));
            unfinished.persist(&self.path)?;
            Ok::<(), std::io::Error>(())
        };
        written().with_context(|| format!("--print-address {}: cannot be written", self.path.display()))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path).ok().map(|metadata| identity(&metadata));
        if there.is_some() && there == self.written.get() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
