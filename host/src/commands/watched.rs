//! What is watched of a project, and when it was changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use walkdir::{DirEntry, WalkDir};

use crate::terminal::say;

/// An editor that saves writes more than once.
const QUIET: Duration = Duration::from_millis(100);
/// Who never stops writing is not waited for.
const QUIET_WITHIN: Duration = Duration::from_secs(2);

/// When a file was changed, by its filesystem's clock: seconds and nanoseconds.
pub(super) type Stamp = (i64, i64);
/// What package managers write when a project is built. Who changes one of these while it is
/// built changes something else, too, as a rule.
const LOCKS: [&str; 7] =
    ["Cargo.lock", "package-lock.json", "go.sum", "uv.lock", "poetry.lock", "yarn.lock", "pnpm-lock.yaml"];
/// Folders of what was built or installed.
const NOT_WATCHED: [&str; 4] = ["target", "node_modules", "build", "__pycache__"];

/// The last of some changes.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub at: Stamp,
    /// Not all of them are such as a build makes by itself.
    pub is_of_sources: bool,
}

impl Change {
    fn of_sources(at: Stamp) -> Change {
        Change { at, is_of_sources: true }
    }

    fn with(self, other: Option<Change>) -> Change {
        let Some(other) = other else { return self };
        Change { at: self.at.max(other.at), is_of_sources: self.is_of_sources || other.is_of_sources }
    }
}

/// Changes of what is in a folder.
pub(super) struct Changes {
    dir: PathBuf,
    watcher: RecommendedWatcher,
    seen: Arc<Seen>,
}

/// What the watcher's thread tells.
#[derive(Default)]
struct Seen {
    /// When the last change was, until it is taken.
    last: Mutex<Option<Change>>,
    told: Notify,
}

impl Changes {
    pub(super) fn watch(dir: &Path) -> notify::Result<Changes> {
        // As the watcher tells of what is in it.
        let dir = std::path::absolute(dir).map_err(notify::Error::io)?;
        let seen = Arc::new(Seen::default());
        let (tell, project) = (seen.clone(), dir.clone());
        let handle = move |event| {
            if let Some(changed) = changed(&project, event) {
                let mut last = tell.last.lock();
                *last = Some(changed.with(*last));
                tell.told.notify_one();
            }
        };
        let mut changes = Changes { dir, watcher: notify::recommended_watcher(handle)?, seen };
        changes.watch_folders()?;
        Ok(changes)
    }

    /// Each by itself, since those of what was built may be thousands.
    fn watch_folders(&mut self) -> notify::Result<()> {
        let is_watched = |entry: &DirEntry| {
            entry.depth() == 0 || entry.file_type().is_dir() && !is_left_out(&self.dir, entry.path())
        };
        for folder in WalkDir::new(&self.dir).into_iter().filter_entry(is_watched).flatten() {
            match self.watcher.watch(folder.path(), RecursiveMode::NonRecursive) {
                Err(error) if folder.depth() == 0 || matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                    return Err(error);
                }
                // One that is gone again is no matter, nor one that this user cannot read.
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for a change, and for the end of those that come with it. Says when the last
    /// of them was. It may be dropped: then what it saw is told next time.
    pub(super) async fn next(&mut self) -> Change {
        while self.seen.last.lock().is_none() {
            self.seen.told.notified().await;
        }
        let quiet = async { while tokio::time::timeout(QUIET, self.seen.told.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(QUIET_WITHIN, quiet).await;
        // Before folders are looked for: another one may be made meanwhile.
        let last = self.seen.last.lock().take();
        if let Err(error) = self.watch_folders() {
            say(format_args!("{}: not all of it is watched: {error}", self.dir.display()));
        }
        last.expect("only this takes it, and it was there")
    }
}

/// When the last change in the project was that an event tells of, if any.
fn changed(project: &Path, event: notify::Result<Event>) -> Option<Change> {
    match event {
        Ok(event) if event.need_rescan() => Some(Change::of_sources(now())),
        Ok(event) if event.kind.is_access() => None,
        Ok(event) => {
            let changed = event.paths.iter().filter(|path| !is_left_out(project, path));
            changed.map(|path| changed_at(path)).reduce(|one, other| one.with(Some(other)))
        }
        Err(_) => Some(Change::of_sources(now())),
    }
}

/// For changes whose events are lost.
fn now() -> Stamp {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec)
}

/// When the file was changed, or made; of one that is gone, when something in its folder
/// was, or in the last one on its path that is there.
fn changed_at(path: &Path) -> Change {
    let metadata = path.ancestors().find_map(|path| path.symlink_metadata().ok());
    let is_lock = path.file_name().is_some_and(|name| LOCKS.iter().any(|lock| name == *lock));
    Change { at: metadata.as_ref().map_or_else(now, stamp), is_of_sources: !is_lock }
}

pub(super) fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Hidden files are those of editors and version control. The script `build` is none of the
/// folders of that name, also when it is gone. Cargo makes its folder under a longer name, and
/// then renames it.
fn is_left_out(project: &Path, path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let is_folder = || path != project.join("build") && !path.is_file();
    let is_of_cargo =
        name.as_encoded_bytes().starts_with(b"target") && path.parent() == Some(project) && !path.exists();
    name.as_encoded_bytes().starts_with(b".")
        || is_of_cargo
        || NOT_WATCHED.iter().any(|folder| name == *folder) && is_folder()
}
