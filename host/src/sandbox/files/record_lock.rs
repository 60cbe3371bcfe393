//! A lock of the kernel on the bytes of a file over which SQLite's processes agree
//! ("File Locking And Concurrency In SQLite Version 3"; `os_unix.c` locks them with
//! `fcntl`). It belongs to the opened file and not to the process, so that two instances
//! exclude each other as two processes do, and ends when the file is closed, however that
//! comes about.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, c_short, flock};

/// `PENDING_BYTE`, `RESERVED_BYTE`, and from `SHARED_FIRST` on `SHARED_SIZE` bytes. They
/// are far behind the end of most files, which does not matter.
const FIRST_BYTE: i64 = 0x4000_0000;
const BYTES: i64 = 2 + 510;

/// Whom a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Who writes. A file that is not opened to be written can have no other.
    Shared,
    /// Everybody.
    Exclusive,
}

/// Takes the lock without waiting. False if another one keeps it out.
pub(super) fn lock(file: &File, kind: Kind) -> io::Result<bool> {
    match ask(file, F_OFD_SETLK, kind) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Someone else, here or in another process, has locked some of the bytes.
pub(super) fn is_locked(file: &File) -> io::Result<bool> {
    Ok(ask(file, F_OFD_GETLK, Kind::Exclusive)?.l_type != F_UNLCK as c_short)
}

/// rustix has neither of the two.
fn ask(file: &File, command: c_int, kind: Kind) -> io::Result<flock> {
    let kind = if kind == Kind::Shared { F_RDLCK } else { F_WRLCK };
    let mut range = flock {
        l_type: kind as c_short,
        l_whence: SEEK_SET as c_short,
        l_start: FIRST_BYTE,
        l_len: BYTES,
        l_pid: 0,
    };
    // SAFETY: both commands take a `flock`, which lives until the call has returned.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_its_file_is_closed() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, other, third) = (open(), open(), File::open(&path).unwrap());
        assert!(!is_locked(&one).unwrap());
        assert!(lock(&one, Kind::Exclusive).unwrap());
        assert!(!is_locked(&one).unwrap() && is_locked(&other).unwrap() && is_locked(&third).unwrap());
        assert!(!lock(&other, Kind::Exclusive).unwrap() && !lock(&third, Kind::Shared).unwrap());
        drop(one);
        assert!(lock(&third, Kind::Shared).unwrap() && lock(&other, Kind::Shared).unwrap());
        assert!(!lock(&other, Kind::Exclusive).unwrap());
        drop(third);
        assert!(lock(&other, Kind::Exclusive).unwrap());
    }
}
