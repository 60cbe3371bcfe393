//! The key of the folder, with which what is kept is told from what others put there.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};

use super::folder::{Folder, check_file, remove};
use crate::system::file;

pub(super) const KEY: &str = "key";
pub(super) const KEY_BYTES: usize = blake3::KEY_LEN;

/// The folder's key, or a new one.
pub(super) fn key(folder: &Folder) -> io::Result<[u8; KEY_BYTES]> {
    let path = folder.path(KEY);
    // Another server may be making it: the first one counts.
    for _ in 0..3 {
        match read_key(&path) {
            Ok(key) => return Ok(key),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => remove(&path),
        }
        let mut unfinished = folder.unfinished_file()?;
        let mut key = [0; KEY_BYTES];
        getrandom(&mut key, GetRandomFlags::empty())?;
        unfinished.write_all(&key)?;
        match unfinished.persist_noclobber(&path) {
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
            kept => drop(kept?),
        }
    }
    Err(io::Error::other("its key cannot be kept"))
}

fn read_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut file = file::open_itself(path)?;
    let is_ours_alone = file.metadata()?.mode() & 0o077 == 0;
    if check_file(&file)? != KEY_BYTES as u64 || !is_ours_alone {
        return Err(io::Error::other("it is no key"));
    }
    let mut key = [0; KEY_BYTES];
    file.read_exact(&mut key)?;
    Ok(key)
}
