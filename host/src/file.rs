//! Files that are read for what is in them. What is none, such as a named pipe whose
//! other side may never come, is refused instead of waited for.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file to read it, wherever symbolic links lead.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::empty())
}

/// Opens a file that is no symbolic link itself.
pub fn open_itself(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::NOFOLLOW)
}

/// The whole content.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    content(open(path)?)
}

/// The whole content of a file that is no symbolic link itself.
pub fn read_itself(path: &Path) -> io::Result<Vec<u8>> {
    content(open_itself(path)?)
}

fn open_with(path: &Path, more: OFlags) -> io::Result<File> {
    // Opening a pipe without this would wait for who writes into it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    match file.metadata()?.file_type() {
        kind if kind.is_file() => Ok(file),
        kind => Err(io::Error::other(format!("it is {}, not a file", name(kind)))),
    }
}

fn content(mut file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

fn name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for (path, name) in
            [(folder.path(), "a folder"), (&pipe, "a named pipe"), (Path::new("/dev/zero"), "a device")]
        {
            assert!(read(path).unwrap_err().to_string().contains(name), "{name}");
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert!(read(&folder.path().join("link")).is_ok());
        assert!(read_itself(&folder.path().join("link")).is_err());
    }
}
