//! The file that says where a server serves (`--print-address`), for scripts that wait for it.
//! It is there while requests are taken: not before, and no longer once the server stops.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::file;

/// Longer than any of ours, of which a path of a socket has at most 108 bytes.
const BYTES_MAX: u64 = 4096;

/// The file, which goes with the value.
pub struct AddressFile(PathBuf);

impl AddressFile {
    /// Removes what a server that was killed has left. Nothing else is taken for that.
    pub fn begin(path: &Path) -> Result<AddressFile> {
        let named = || format!("--print-address {}", path.display());
        let text = match file::open(path) {
            Ok(file) => {
                let mut text = Vec::new();
                file.take(BYTES_MAX).read_to_end(&mut text).with_context(named)?;
                text
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(AddressFile(path.to_owned())),
            Err(error) => return Err(error).with_context(named),
        };
        let is_ours = text.is_empty() || text.starts_with(b"http://") || text.starts_with(b"unix:");
        ensure!(is_ours, "{}: has something else in it; name another file", named());
        fs::remove_file(path).with_context(named)?;
        Ok(AddressFile(path.to_owned()))
    }

    /// Who finds it finds all of it.
    pub fn write(&self, urls: &[&str]) -> Result<()> {
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty());
        let written = || {
            let mut unfinished = file::unfinished().tempfile_in(folder.unwrap_or(Path::new(".")))?;
            urls.iter().try_for_each(|url| writeln!(unfinished, "{url}"))?;
            unfinished.persist(&self.0)?;
            Ok::<(), std::io::Error>(())
        };
        written().with_context(|| format!("--print-address {}: cannot be written", self.0.display()))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
