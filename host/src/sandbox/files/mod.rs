//! What an instance has of files, and how they are looked for, read, written and locked.
//! What guests call is in `imports`, above this.

/// How content is read.
pub(crate) mod content;
/// What waits for a disk, and what does it.
pub(crate) mod disk;
/// What is in a folder.
pub(crate) mod entries;
/// Folders that stand for locks.
pub(crate) mod locks;
/// How a path is resolved.
pub(crate) mod lookup;
/// What a core module has open.
pub(crate) mod numbers;
/// How many files guests may have open.
pub(crate) mod places;
mod record_lock;
/// How content is written.
pub(crate) mod written;

use std::time::Duration;

use self::locks::{Held, Locks};
use self::numbers::Numbers;
use self::places::Opened;

/// What one instance has of files beside its descriptors.
#[derive(Default)]
pub(crate) struct Files {
    pub locks: Locks,
    pub opened: Opened,
    /// None before a core module opens something.
    pub numbers: Option<Numbers>,
}

impl Files {
    pub(crate) fn are_locks_held(&self) -> bool {
        self.locks.are_held()
    }

    pub(crate) fn held(&self) -> Held {
        self.locks.held()
    }
}

impl Drop for Files {
    /// By WASI 0.1 and 0.3, wasmtime may still be writing in threads of its own.
    fn drop(&mut self) {
        if !self.locks.are_held() {
            return;
        }
        let mut under_way = self.opened.under_way();
        under_way.extend(self.numbers.iter().flat_map(Numbers::under_way));
        if under_way.is_empty() {
            return;
        }
        let locks = self.locks.clone();
        let wait = move || {
            let _until_done = locks;
            while under_way.iter().any(|file| file.strong_count() > 0) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // Without a thread they end at once.
        let _ = std::thread::Builder::new().name("locks".into()).spawn(wait);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use wasmtime_wasi::filesystem::{self, Descriptor, FsPerms, OpenMode};

    use super::places::Places;
    use super::*;

    #[test]
    fn a_lock_lasts_until_what_is_under_way_is_done() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.db"), "").unwrap();
        let root = File::open(folder.path()).unwrap();
        let log = crate::telemetry::log::Log::open(None, Default::default()).unwrap();
        let (mut files, places) = (Files::default(), Arc::new(Places::new(2, 2)));
        let mut take = || files.opened.take(&places, &log).unwrap();
        let (lock, file) = (take(), take());
        assert_eq!(files.locks.make(&root, "a.db.lock", lock).unwrap(), locks::Made::Locked);
        let opened = File::open(folder.path().join("a.db")).unwrap();
        let opened = filesystem::File::new(opened, FsPerms::ReadWrite, OpenMode::WRITE, false);
        let under_way = opened.file.clone();
        files.opened.add(7, &Descriptor::File(opened), file);
        drop(files);
        assert!(locks::stands_for_lock(&root, "a.db.lock"));
        drop(under_way);
        while locks::stands_for_lock(&root, "a.db.lock") {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
