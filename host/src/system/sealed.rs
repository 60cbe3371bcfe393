//! Files in memory that nobody can change any more: neither who knows them by name, since
//! they have none, nor this process itself.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// One that is being written.
pub(crate) struct Unsealed(File);

impl Unsealed {
    pub(crate) fn new(name: &str) -> io::Result<Unsealed> {
        Ok(Unsealed(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into()))
    }

    /// For who writes it in another process.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    pub(crate) fn seal(self) -> io::Result<Sealed> {
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&self.0, seals)?;
        Ok(Sealed(self.0))
    }
}

impl Write for Unsealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// One whose content stays as it is.
pub(crate) struct Sealed(File);

impl Sealed {
    pub(crate) fn new(name: &str, content: &[u8]) -> io::Result<Sealed> {
        let mut file = Unsealed::new(name)?;
        file.write_all(content)?;
        file.seal()
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    pub(crate) fn into_file(self) -> File {
        self.0
    }

    /// For who takes files by their names alone.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_stays() {
        let sealed = Sealed::new("test", b"content").unwrap();
        assert_eq!(std::fs::read(sealed.path()).unwrap(), b"content");
        assert!(sealed.file().set_len(0).is_err());
        assert!(std::fs::write(sealed.path(), b"other").is_err());
        assert!((&mut sealed.file()).write_all(b"more").is_err());
        assert_eq!(std::fs::read(sealed.path()).unwrap(), b"content");
    }
}
