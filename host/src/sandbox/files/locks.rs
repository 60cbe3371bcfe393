//! The folders by which SQLite in a guest locks its databases, as locks of the kernel.
//!
//! WASI has no locks for files, so SQLite takes its VFS `unix-dotfile`: to lock `app.db` it
//! makes the folder `app.db.lock`, and to unlock it removes it. A guest that is ended in
//! between would leave the folder for ever. So no folder is made where a database is: the
//! host locks the database instead, by the bytes that SQLite's processes outside lock.
//! To guests the folder is there as long as anybody holds the lock, and the lock ends with
//! the instance at the latest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat, unlinkat};
use rustix::io::Errno;

use super::places::Place;
use super::record_lock::{self, Kind};

/// What SQLite adds to the name of a database.
const ENDING: &str = ".lock";

/// How every database begins, once something was written to it.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A real folder, of a server before this one or of a program outside, is no lock any more
/// when it is as old as this. SQLite gives it a new time whenever it locks for more.
const STALE: Duration = Duration::from_secs(300);

/// A named pipe's other end is not waited for.
const AT_ONCE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

/// The locks that one instance holds. They end when the last clone is dropped: what
/// changes files in another thread has one, so that nobody else gets a lock before the
/// last change is made.
#[derive(Clone, Default)]
pub(crate) struct Locks(Arc<Mutex<Vec<Lock>>>);

/// Shows whether an instance holds locks, and keeps none of them.
#[derive(Debug)]
pub(crate) struct Held(Weak<Mutex<Vec<Lock>>>);

impl Held {
    pub(crate) fn is_any(&self) -> bool {
        self.0.upgrade().is_some_and(|locks| !locks.lock().is_empty())
    }
}

struct Lock {
    place: FolderPlace,
    /// Has the lock.
    _database: File,
    _open: Place,
}

/// Where the folder would be: the device and number of the folder that it would be in, and
/// its name.
#[derive(PartialEq)]
struct FolderPlace(u64, u64, String);

/// What became of a folder that a guest wanted to make.
#[derive(Debug, PartialEq)]
pub(crate) enum Made {
    Locked,
    /// A real folder was in the place for long, and is gone.
    LockedInPlaceOfFolder,
    /// Somebody else has the lock.
    Exists,
    /// It is no lock, and has still to be made.
    NotALock,
}

/// The path of the database, if a folder at `path` may be a lock.
pub(crate) fn database(path: &str) -> Option<&str> {
    let database = path.trim_end_matches('/').strip_suffix(ENDING)?;
    (!database.is_empty() && !database.ends_with('/')).then_some(database)
}

impl Locks {
    /// Takes the lock for which the folder at `path` in `folder` stands. May wait for a disk.
    pub(crate) fn make(&self, folder: &File, path: &str, open: Place) -> io::Result<Made> {
        let Some((database, kind)) = database(path).and_then(|path| open_to_lock(folder, path)) else {
            return Ok(Made::NotALock);
        };
        if !is_database(&database)? {
            return Ok(Made::NotALock);
        }
        let (parent, place) = place(folder, path)?;
        if !record_lock::lock(&database, kind)? {
            return Ok(Made::Exists);
        }
        let made = match statat(&parent, &place.2, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Made::Locked,
            Ok(stat) if is_stale(&stat) && unlinkat(&parent, &place.2, AtFlags::REMOVEDIR).is_ok() => {
                Made::LockedInPlaceOfFolder
            }
            _ => return Ok(Made::Exists),
        };
        self.0.lock().push(Lock { place, _database: database, _open: open });
        Ok(made)
    }

    pub(crate) fn held(&self) -> Held {
        Held(Arc::downgrade(&self.0))
    }

    pub(crate) fn are_held(&self) -> bool {
        !self.0.lock().is_empty()
    }

    /// Ends the lock for which the folder at `path` in `folder` stands. False if the
    /// instance does not hold it.
    pub(crate) fn remove(&self, folder: &File, path: &str) -> io::Result<bool> {
        if !self.are_held() {
            return Ok(false);
        }
        let (_, place) = place(folder, path)?;
        let mut locks = self.0.lock();
        let found = locks.iter().position(|lock| lock.place == place);
        let ended = found.map(|index| locks.swap_remove(index));
        Ok(ended.is_some())
    }
}

/// Who asks for the folder at `path` in `folder`, which is not there, finds one, since
/// somebody holds the lock. May wait for a disk.
pub(crate) fn stands_for_lock(folder: &File, path: &str) -> bool {
    let database = database(path).and_then(|path| open(folder, path, OFlags::RDONLY | AT_ONCE).ok());
    database.is_some_and(|database| {
        is_database(&database).unwrap_or(false) && record_lock::is_locked(&database).unwrap_or(false)
    })
}

/// One that may only be read can only be locked so that nobody writes to it.
fn open_to_lock(folder: &File, path: &str) -> Option<(File, Kind)> {
    match open(folder, path, OFlags::RDWR | AT_ONCE) {
        Ok(file) => Some((file, Kind::Exclusive)),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            Some((open(folder, path, OFlags::RDONLY | AT_ONCE).ok()?, Kind::Shared))
        }
        Err(_) => None,
    }
}

/// No link leads out of the folder.
fn open(folder: &File, path: &str, how: OFlags) -> rustix::io::Result<File> {
    let how = how | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(folder, path, how, Mode::empty(), beneath).map(File::from)
}

/// Also one that was just made, to which nothing was written yet.
fn is_database(file: &File) -> io::Result<bool> {
    let stat = fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    let mut begin = [0; MAGIC.len()];
    Ok(stat.st_size == 0 || file.read_at(&mut begin, 0)? == begin.len() && begin == *MAGIC)
}

/// The folder in which the one at `path` would be, and what that is called.
fn place(folder: &File, path: &str) -> io::Result<(File, FolderPlace)> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = open(folder, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let stat = fstat(&parent)?;
    Ok((parent, FolderPlace(stat.st_dev, stat.st_ino, name.to_owned())))
}

fn is_stale(stat: &Stat) -> bool {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        && SystemTime::now().duration_since(changed).is_ok_and(|age| age > STALE)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::places::{Opened, Places};
    use super::*;
    use crate::telemetry::log::Log;

    fn open() -> Place {
        let places = Arc::new(Places::new(1, 1));
        Opened::default().take(&places, &Log::open(None, Default::default()).unwrap()).unwrap()
    }

    struct Root(tempfile::TempDir, File);

    fn root() -> Root {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        for (name, content) in [("new.db", ""), ("app.db", "SQLite format 3\0..."), ("text", "text")] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        fs::hard_link(folder.path().join("app.db"), folder.path().join("in/same.db")).unwrap();
        symlink("../app.db", folder.path().join("in/link.db")).unwrap();
        symlink("/etc/passwd", folder.path().join("out.db")).unwrap();
        let opened = File::open(folder.path()).unwrap();
        Root(folder, opened)
    }

    #[test]
    fn only_a_database_is_locked() {
        let Root(_folder, root) = root();
        let locks = Locks::default();
        for path in ["text.lock", "in.lock", "missing.lock", "out.db.lock", ".lock", "in/.lock", "app.db", ""]
        {
            assert_eq!(locks.make(&root, path, open()).unwrap(), Made::NotALock, "{path}");
            assert!(!stands_for_lock(&root, path), "{path}");
        }
        assert_eq!(locks.make(&root, "new.db.lock", open()).unwrap(), Made::Locked);
        assert!(stands_for_lock(&root, "new.db.lock"));
    }

    #[test]
    fn all_names_of_a_database_are_one_lock() {
        let Root(_folder, root) = root();
        let (one, other) = (Locks::default(), Locks::default());
        let names = ["app.db.lock", "./in/../app.db.lock/", "in/same.db.lock", "in/link.db.lock"];
        for name in names {
            assert_eq!(one.make(&root, name, open()).unwrap(), Made::Locked);
            for again in names {
                assert!(stands_for_lock(&root, again));
                assert_eq!(other.make(&root, again, open()).unwrap(), Made::Exists, "{name} and {again}");
                assert_eq!(one.make(&root, again, open()).unwrap(), Made::Exists, "{name} and {again}");
            }
            assert!(!other.remove(&root, name).unwrap());
            assert!(one.remove(&root, name).unwrap() && !one.remove(&root, name).unwrap());
            assert!(!stands_for_lock(&root, name));
        }
    }

    #[test]
    fn locks_end_with_the_last_that_changes_files() {
        let Root(_folder, root) = root();
        let (instance, next) = (Locks::default(), Locks::default());
        instance.make(&root, "app.db.lock", open()).unwrap();
        let under_way = instance.clone();
        drop(instance);
        assert_eq!(next.make(&root, "app.db.lock", open()).unwrap(), Made::Exists);
        drop(under_way);
        assert_eq!(next.make(&root, "app.db.lock", open()).unwrap(), Made::Locked);
    }

    #[test]
    fn a_real_folder_is_a_lock_until_it_is_old() {
        let Root(folder, root) = root();
        let real = folder.path().join("app.db.lock");
        fs::create_dir(&real).unwrap();
        let locks = Locks::default();
        assert_eq!(locks.make(&root, "app.db.lock", open()).unwrap(), Made::Exists);
        assert!(!stands_for_lock(&root, "app.db.lock"));
        let age = |age| {
            let file = File::open(&real).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        age(STALE / 2);
        assert_eq!(locks.make(&root, "app.db.lock", open()).unwrap(), Made::Exists);
        age(STALE * 2);
        assert_eq!(locks.make(&root, "app.db.lock", open()).unwrap(), Made::LockedInPlaceOfFolder);
        assert!(!real.exists());
        assert!(locks.remove(&root, "app.db.lock").unwrap());
        // One with something in it is none of SQLite's.
        fs::create_dir_all(real.join("within")).unwrap();
        age(STALE * 2);
        assert_eq!(locks.make(&root, "app.db.lock", open()).unwrap(), Made::Exists);
    }

    #[test]
    fn readers_of_what_none_of_them_can_write_do_not_exclude_each_other() {
        let Root(folder, root) = root();
        fs::set_permissions(folder.path().join("app.db"), fs::Permissions::from_mode(0o400)).unwrap();
        let can_write = File::options().write(true).open(folder.path().join("app.db")).is_ok();
        let (one, other) = (Locks::default(), Locks::default());
        assert_eq!(one.make(&root, "app.db.lock", open()).unwrap(), Made::Locked);
        // Root may write to any file.
        let expected = if can_write { Made::Exists } else { Made::Locked };
        assert_eq!(other.make(&root, "app.db.lock", open()).unwrap(), expected);
    }
}
