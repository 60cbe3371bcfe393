//! A folder of files that are kept from one start to the next: whose it may be, how a
//! file gets into it and out of it, and which files go.
//!
//! What comes out is what this user has put in: each file ends in a sum over its name
//! and its content, which only who has the folder's key can make.

mod folder;
mod key;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::SystemTime;

pub(crate) use self::folder::Folder;
use self::folder::{check_file, remove};
use self::key::{KEY_BYTES, key};
use crate::system::file;
use crate::system::sealed::{Sealed, Unsealed};

/// What the user may do about a folder that cannot be used.
pub(crate) const ANOTHER: &str = "; --cache DIR names another folder";
const SUM_BYTES: usize = blake3::OUT_LEN;
/// What is read at once stays in the processor's cache until its sum is made.
const PIECE_BYTES: usize = 256 << 10;

/// The folder with its key. It may be used by many servers at once.
pub(crate) struct Cache {
    folder: Folder,
    key: [u8; KEY_BYTES],
    /// Files of one extension that are kept; of more, the longest unused go.
    files_max: usize,
}

/// Why a file that is there is not what was kept.
#[derive(Debug)]
pub(crate) struct Unfit(String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Cache {
    /// Opens the folder, or makes it. A key that will not do is made anew, and with it
    /// all that was kept.
    pub(crate) fn open(folder: &Path, files_max: usize) -> io::Result<Cache> {
        let folder = Folder::open(folder)?;
        let key = key(&folder)?;
        Ok(Cache { folder, key, files_max })
    }

    /// Whether a file is there, and notes that it is used. What is in it is for `find` to see.
    pub(crate) fn has(&self, name: &str) -> bool {
        let Ok(file) = file::open_itself(&self.folder.path(name)) else { return false };
        // Whether it can be noted decides nothing.
        let _ = file.set_modified(SystemTime::now());
        check_file(&file).is_ok()
    }

    /// The content of a file, if it is there, and notes that it is used.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Vec<u8>>, Unfit> {
        self.copy(name, |bytes| Ok(Vec::with_capacity(bytes)))
    }

    /// The same, as a file of its own that cannot change any more.
    pub(crate) fn find_sealed(&self, name: &str) -> Result<Option<Sealed>, Unfit> {
        let begin = |_| Ok(Copy { content: Unsealed::new(name)?, piece: vec![0; PIECE_BYTES] });
        let Some(Copy { content, .. }) = self.copy(name, begin)? else { return Ok(None) };
        content.seal().map(Some).map_err(|error| Unfit(format!("it cannot be sealed: {error}")))
    }

    /// Keeps a file. It has its whole content when it gets its name, since others may
    /// be looking for it, or be keeping the same one.
    pub(crate) fn keep(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.keep_all(name, content)
    }

    /// The same for a file in memory.
    pub(crate) fn keep_sealed(&self, name: &str, content: &Sealed) -> io::Result<()> {
        self.keep_all(name, File::open(content.path())?)
    }

    fn keep_all(&self, name: &str, mut content: impl Read) -> io::Result<()> {
        let mut sum = self.sum(name);
        let mut unfinished = self.folder.unfinished_file()?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = content.read(&mut piece)?;
            if count == 0 {
                break;
            }
            sum.update(&piece[..count]);
            unfinished.write_all(&piece[..count])?;
        }
        unfinished.write_all(sum.finalize().as_bytes())?;
        unfinished.persist(self.folder.path(name))?;
        if let Some(extension) = Path::new(name).extension() {
            self.remove_longest_unused(extension);
        }
        Ok(())
    }

    /// A copy in what `begin` makes for so many bytes. What does not fit is removed, so that it
    /// can be made anew.
    fn copy<T: Target>(
        &self,
        name: &str,
        begin: impl FnOnce(usize) -> io::Result<T>,
    ) -> Result<Option<T>, Unfit> {
        let path = self.folder.path(name);
        let copied = match file::open_itself(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
            Ok(file) => self.copy_file(name, file, begin),
        };
        copied.map(Some).map_err(|error| {
            remove(&path);
            Unfit(format!("{}: {error}", path.display()))
        })
    }

    fn copy_file<T: Target>(
        &self,
        name: &str,
        mut file: File,
        begin: impl FnOnce(usize) -> io::Result<T>,
    ) -> io::Result<T> {
        let bytes = check_file(&file)?;
        let Some(mut left) = bytes.checked_sub(SUM_BYTES as u64) else {
            return Err(io::Error::other("it has no sum"));
        };
        let mut into = begin(left as usize)?;
        let mut sum = self.sum(name);
        while left > 0 {
            let piece = into.read(&mut file, PIECE_BYTES.min(left as usize))?;
            sum.update(piece);
            left -= piece.len() as u64;
        }
        let mut kept_sum = [0; SUM_BYTES];
        file.read_exact(&mut kept_sum)?;
        if sum.finalize() != blake3::Hash::from_bytes(kept_sum) {
            return Err(io::Error::other("its content is not what was kept"));
        }
        // Whether it can be noted decides nothing.
        let _ = file.set_modified(SystemTime::now());
        Ok(into)
    }

    /// The sum of a file's content begins with its name: so none can be put in the place of another.
    fn sum(&self, name: &str) -> blake3::Hasher {
        let mut sum = blake3::Hasher::new_keyed(&self.key);
        sum.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        sum
    }

    /// Another server may be removing the same ones.
    fn remove_longest_unused(&self, extension: &std::ffi::OsStr) {
        let mut files = self.folder.entries();
        files.retain(|(_, path)| path.extension().is_some_and(|known| known == extension));
        files.sort();
        let surplus = files.len().saturating_sub(self.files_max);
        files[..surplus].iter().for_each(|(_, path)| remove(path));
    }
}

/// Where a file's content goes.
trait Target {
    /// Reads so many bytes more from the file, and gives them.
    fn read(&mut self, file: &mut File, bytes: usize) -> io::Result<&[u8]>;
}

impl Target for Vec<u8> {
    fn read(&mut self, file: &mut File, bytes: usize) -> io::Result<&[u8]> {
        let before = self.len();
        match file.take(bytes as u64).read_to_end(self)? {
            read if read == bytes => Ok(&self[before..]),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

struct Copy {
    content: Unsealed,
    piece: Vec<u8>,
}

impl Target for Copy {
    fn read(&mut self, file: &mut File, bytes: usize) -> io::Result<&[u8]> {
        let piece = &mut self.piece[..bytes];
        file.read_exact(piece)?;
        self.content.write_all(piece)?;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::key::KEY;
    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 2).unwrap();
        for name in ["a.x", "b.x", "c.y"] {
            cache.keep(name, b"").unwrap();
            let age = Duration::from_secs(if name == "a.x" { 20 } else { 30 });
            let file = File::options().append(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        assert!(cache.find("b.x").unwrap().is_some());
        cache.keep("d.x", b"").unwrap();
        let is_there = |name: &str| cache.find(name).unwrap().is_some();
        assert_eq!(["a.x", "b.x", "c.y", "d.x"].map(is_there), [false, true, true, true]);
    }

    #[test]
    fn a_folder_in_which_or_above_which_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        for mode in [0o700, 0o755] {
            chmod(folder.path(), mode);
            assert!(Cache::open(&path, 1).is_ok());
        }
        chmod(folder.path(), 0o777);
        assert!(Cache::open(&path, 1).is_err());
        chmod(folder.path(), 0o755);
        chmod(&path, 0o770);
        assert!(Cache::open(&path, 1).is_err());
    }

    #[test]
    fn what_is_kept_is_found_by_every_server_of_the_user_and_by_its_name_alone() {
        let folder = tempfile::tempdir().unwrap();
        Cache::open(folder.path(), 9).unwrap().keep("a.x", b"content").unwrap();
        let cache = Cache::open(folder.path(), 9).unwrap();
        assert_eq!(cache.find("a.x").unwrap().unwrap(), b"content");
        assert_eq!(fs::read(cache.find_sealed("a.x").unwrap().unwrap().path()).unwrap(), b"content");
        fs::rename(folder.path().join("a.x"), folder.path().join("b.x")).unwrap();
        assert!(cache.find("b.x").is_err());
        assert!(cache.find("b.x").unwrap().is_none(), "it was removed");
    }

    #[test]
    fn what_others_could_have_put_there_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 9).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.x");
        let moved = elsewhere.path().join("a.x");
        let ways: [(&str, &dyn Fn()); 8] = [
            ("mode", &|| chmod(&path, 0o666)),
            ("link", &|| {
                fs::rename(&path, &moved).unwrap();
                symlink(&moved, &path).unwrap();
            }),
            ("names", &|| fs::hard_link(&path, &moved).unwrap()),
            ("pipe", &|| {
                fs::remove_file(&path).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap();
            }),
            ("folder", &|| {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
                fs::write(path.join("file"), "").unwrap();
            }),
            ("empty", &|| fs::write(&path, "").unwrap()),
            ("half", &|| {
                let whole = fs::read(&path).unwrap();
                fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            }),
            ("another's", &|| {
                let others = Cache::open(elsewhere.path(), 9).unwrap();
                others.keep("a.x", b"content").unwrap();
                fs::rename(&moved, &path).unwrap();
            }),
        ];
        for (name, change) in ways {
            cache.keep("a.x", b"content").unwrap();
            change();
            assert!(cache.find("a.x").is_err(), "{name}");
            cache.keep("a.x", b"content").unwrap();
            assert_eq!(cache.find("a.x").unwrap().unwrap(), b"content", "{name}");
            remove(&moved);
        }
    }

    #[test]
    fn a_key_that_others_know_or_that_is_none_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY);
        let changes: [&dyn Fn(); 4] = [
            &|| chmod(&path, 0o644),
            &|| fs::write(&path, "short").unwrap(),
            &|| fs::remove_file(&path).unwrap(),
            &|| {
                fs::rename(&path, folder.path().join("moved")).unwrap();
                symlink("moved", &path).unwrap();
            },
        ];
        for change in changes {
            Cache::open(folder.path(), 9).unwrap().keep("a.x", b"content").unwrap();
            change();
            let cache = Cache::open(folder.path(), 9).unwrap();
            assert!(cache.find("a.x").is_err());
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert!(metadata.is_file() && metadata.mode() & 0o777 == 0o600);
        }
    }

    proptest! {
        #[test]
        fn whatever_becomes_of_a_file_it_is_found_as_it_was_or_not_at_all(
            content in proptest::collection::vec(any::<u8>(), 0..2000),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            cut in 0..80usize,
            more in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::open(folder.path(), 9).unwrap();
            cache.keep("a.x", &content).unwrap();
            let path = folder.path().join("a.x");
            let kept = fs::read(&path).unwrap();
            let mut changed = kept.clone();
            for (index, byte) in changes {
                let at = index.index(changed.len());
                changed[at] = byte;
            }
            changed.truncate(changed.len().saturating_sub(cut));
            changed.extend(more);
            fs::write(&path, &changed).unwrap();
            match cache.find("a.x") {
                Ok(found) => prop_assert!(changed == kept && found.as_ref() == Some(&content)),
                Err(_) => prop_assert!(changed != kept),
            }
        }
    }
}
