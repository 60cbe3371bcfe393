//! `wasm-serve dev`: builds a project and serves it, and builds and swaps it whenever
//! something in the folder changes. The server is this program once more, as it is used
//! in production, and SIGHUP swaps the guest.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use super::script;
use crate::config::{self, own_program};
use crate::logging::say;

/// An editor that saves writes more than once.
const QUIET: Duration = Duration::from_millis(100);
/// Who never stops writing is not waited for.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// Longer than the time for which filesystems may give the same time.
const TICK: Duration = Duration::from_millis(20);
/// As many builds in a row may be made for what the one before has changed: it may be the
/// script that writes into its own folder.
const BUILDS_MAX: u32 = 3;

/// When a file was changed, by its filesystem's clock: seconds and nanoseconds.
type Stamp = (i64, i64);
/// Folders of what was built or installed.
const NOT_WATCHED: [&str; 4] = ["target", "node_modules", "build", "__pycache__"];

pub fn run(options: &config::Dev) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the server cannot be started")?;
    runtime.block_on(async { Session::begin(options)?.run().await })
}

struct Session<'a> {
    options: &'a config::Dev,
    changes: Changes,
    stop: Stop,
    /// Where the guest is built: not in the project, which is watched.
    folder: tempfile::TempDir,
    server: Option<Child>,
}

impl Session<'_> {
    fn begin(options: &config::Dev) -> Result<Session<'_>> {
        // Says what is wrong with the folder.
        script(&options.dir, Path::new("app.wasm"))?;
        Ok(Session {
            options,
            changes: Changes::watch(&options.dir)
                .with_context(|| format!("{}: cannot be watched", options.dir.display()))?,
            stop: Stop::listen().context("signals cannot be received")?,
            folder: tempfile::tempdir().context("no folder to build in can be made")?,
            server: None,
        })
    }

    async fn run(mut self) -> Result<ExitCode> {
        // Builds in a row that were made for what a build before them had changed.
        let mut again = 0;
        loop {
            let Some(built) = self.build_and_serve().await? else { return self.stopped().await };
            loop {
                tokio::select! {
                    changed = self.changes.next() => {
                        again = if changed < built { again + 1 } else { 0 };
                        if again < BUILDS_MAX {
                            break;
                        }
                        if again == BUILDS_MAX {
                            say("Something in the folder changes with each build; waiting for another change");
                        }
                    }
                    () = self.stop.asked() => return self.stopped().await,
                    status = ended(&mut self.server) => {
                        let status = status?;
                        if status.success() {
                            return Ok(ExitCode::SUCCESS);
                        }
                        say(format_args!("The server ended: {status}; waiting for a change"));
                        self.server = None;
                    }
                }
            }
        }
    }

    /// Gives a time after the build and before the guest is served; nothing if the session
    /// is to stop.
    async fn build_and_serve(&mut self) -> Result<Option<Stamp>> {
        let guest = self.folder.path().join("app.wasm");
        let unfinished = self.folder.path().join("unfinished.wasm");
        // What a build that failed has left.
        let _ = std::fs::remove_file(&unfinished);
        let mut build = Command::from(script(&self.options.dir, &unfinished)?);
        build.stdin(Stdio::null()).kill_on_drop(true);
        say(format_args!("Building {}", self.options.dir.display()));
        let built = tokio::select! {
            built = build.status() => built,
            () = self.stop.asked() => return Ok(None),
        };
        tokio::time::sleep(TICK).await;
        let now = self.folder.path().join("built");
        std::fs::write(&now, "")?;
        let after = stamp(&now);
        let failed = match built {
            // At once, since the server may be reading the one of before.
            Ok(status) if status.success() => match std::fs::rename(unfinished, &guest) {
                Ok(()) => None,
                Err(_) => Some("it made no file".to_owned()),
            },
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        match (failed, &self.server) {
            (Some(why), Some(_)) => {
                say(format_args!("The build failed: {why}; the guest of before is served on"))
            }
            (Some(why), None) => say(format_args!("The build failed: {why}; waiting for a change")),
            (None, Some(server)) => send(server, Signal::HUP),
            (None, None) => self.server = Some(self.serve(&guest)?),
        }
        Ok(Some(after))
    }

    fn serve(&self, guest: &Path) -> Result<Child> {
        let mut server = Command::new(own_program()?);
        server.args(self.options.serve(guest)).stdin(Stdio::null());
        // A group of its own, so that a terminal's Ctrl-C reaches it once, by way of here.
        server.process_group(0);
        // SAFETY: nothing but a system call.
        unsafe { server.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
        server.spawn().context("the server cannot be started")
    }

    /// Stops the server as it was asked to: a second signal ends it at once.
    async fn stopped(mut self) -> Result<ExitCode> {
        let Some(mut server) = self.server.take() else { return Ok(ExitCode::SUCCESS) };
        loop {
            send(&server, Signal::TERM);
            tokio::select! {
                status = server.wait() => return Ok(code(status?)),
                () = self.stop.asked() => {}
            }
        }
    }
}

/// Waits for the end of the server; without one, there is none to wait for.
async fn ended(server: &mut Option<Child>) -> io::Result<ExitStatus> {
    match server {
        Some(server) => server.wait().await,
        None => std::future::pending().await,
    }
}

fn send(server: &Child, signal: Signal) {
    let pid = server.id().and_then(|pid| Pid::from_raw(pid as i32));
    // One that has just ended takes no signal.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The signals that stop a server.
struct Stop {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Stop {
    fn listen() -> io::Result<Stop> {
        Ok(Stop {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Changes of what is in a folder.
struct Changes {
    dir: PathBuf,
    watcher: RecommendedWatcher,
    /// When it was. One stands for any number of them.
    seen: mpsc::Receiver<Stamp>,
}

impl Changes {
    fn watch(dir: &Path) -> notify::Result<Changes> {
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
            Changes { dir: dir.to_owned(), watcher: notify::recommended_watcher(handle)?, seen };
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
    /// of them was.
    async fn next(&mut self) -> Stamp {
        // The watcher, which tells of them, lives as long as this.
        let mut last = self.seen.recv().await.unwrap_or_default();
        let quiet = async {
            while let Ok(Some(changed)) = tokio::time::timeout(QUIET, self.seen.recv()).await {
                last = last.max(changed);
            }
        };
        let _ = tokio::time::timeout(QUIET_WITHIN, quiet).await;
        // New folders, too. One that is gone again is no matter.
        let _ = self.watch_folders();
        last
    }
}

/// When the file was changed, or made; of one that is gone, when something in its folder
/// was.
fn stamp(path: &Path) -> Stamp {
    let metadata = path.symlink_metadata().or_else(|_| path.parent().unwrap_or(path).symlink_metadata());
    metadata.map_or((i64::MAX, 0), |metadata| (metadata.ctime(), metadata.ctime_nsec()))
}

/// Hidden files are those of editors and version control.
fn is_source(name: &OsStr) -> bool {
    !name.as_encoded_bytes().starts_with(b".")
}
