//! What is watched of a project, and when it was changed.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

/// An editor that saves writes more than once.
const QUIET: Duration = Duration::from_millis(100);
/// Who never stops writing is not waited for.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// When a file was changed, by its filesystem's clock: seconds and nanoseconds.
pub type Stamp = (i64, i64);
/// Folders of what was built or installed.
const NOT_WATCHED: [&str; 4] = ["target", "node_modules", "build", "__pycache__"];

/// Changes of what is in a folder.
pub struct Changes {
    dir: PathBuf,
    watcher: RecommendedWatcher,
    /// When it was. One stands for any number of them.
    seen: mpsc::Receiver<Stamp>,
    /// The last one, which nobody has been told of yet.
    last: Option<Stamp>,
}

impl Changes {
    pub fn watch(dir: &Path) -> notify::Result<Changes> {
        let (tell, seen) = mpsc::channel(1);
        let handle = move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            let changed = event.paths.iter().filter(|path| path.file_name().is_none_or(is_source));
            if !event.kind.is_access()
                && let Some(changed) = changed.map(|path| stamp(path)).max()
            {
                // Full: it is told of already.
                let _ = tell.try_send(changed);
            }
        };
        let mut changes =
            Changes { dir: dir.to_owned(), watcher: notify::recommended_watcher(handle)?, seen, last: None };
        changes.watch_folders()?;
        Ok(changes)
    }

    /// Each by itself, since those of what was built may be thousands.
    fn watch_folders(&mut self) -> notify::Result<()> {
        let is_watched = |entry: &DirEntry| {
            entry.depth() == 0
                || entry.file_type().is_dir()
                    && is_source(entry.file_name())
                    && NOT_WATCHED.iter().all(|name| entry.file_name() != *name)
        };
        for folder in WalkDir::new(&self.dir).into_iter().filter_entry(is_watched).flatten() {
            self.watcher.watch(folder.path(), RecursiveMode::NonRecursive)?;
        }
        Ok(())
    }

    /// Waits for a change, and for the end of those that come with it. Says when the last
    /// of them was. It may be dropped: then what it saw is told next time.
    pub async fn next(&mut self) -> Stamp {
        if self.last.is_none() {
            self.last = self.seen.recv().await;
        }
        let quiet = async {
            while let Ok(Some(changed)) = tokio::time::timeout(QUIET, self.seen.recv()).await {
                self.last = self.last.max(Some(changed));
            }
        };
        let _ = tokio::time::timeout(QUIET_WITHIN, quiet).await;
        // New folders, too. One that is gone again is no matter.
        let _ = self.watch_folders();
        // The watcher, which tells of changes, lives as long as this: there was one.
        self.last.take().unwrap_or_default()
    }
}

/// When the file was changed, or made; of one that is gone, when something in its folder
/// was, or in the last one on its path that is there.
pub fn stamp(path: &Path) -> Stamp {
    let metadata = path.ancestors().find_map(|path| path.symlink_metadata().ok());
    metadata.map_or((i64::MAX, 0), |metadata| (metadata.ctime(), metadata.ctime_nsec()))
}

/// Hidden files are those of editors and version control.
fn is_source(name: &OsStr) -> bool {
    !name.as_encoded_bytes().starts_with(b".")
}
