//! `wasm-serve dev`: builds a project and serves it, and builds and swaps it whenever
//! something in the folder changes. The server is this program once more, as it is used
//! in production, and SIGHUP swaps the guest.

use std::ffi::OsStr;
use std::io;
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
/// How long the system may take to tell of a change.
const TOLD_WITHIN: Duration = Duration::from_millis(20);
/// Builds in a row during which something changed, before another is waited for: it may
/// be the script that writes into its own folder.
const BUILDS_MAX: u32 = 3;
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
        let mut builds = 0;
        loop {
            let Some(changed) = self.build_and_serve().await? else { return self.stopped().await };
            builds += 1;
            if changed {
                if builds < BUILDS_MAX {
                    continue;
                }
                say("Something in the folder changes with each build; waiting for another change");
            }
            builds = 0;
            loop {
                tokio::select! {
                    () = self.changes.next() => break,
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

    /// Says whether something in the folder changed meanwhile; nothing if the session is
    /// to stop.
    async fn build_and_serve(&mut self) -> Result<Option<bool>> {
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
        // Before the guest is served: what changes then is no longer the build's doing.
        tokio::time::sleep(TOLD_WITHIN).await;
        let changed = self.changes.are_told();
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
        Ok(Some(changed))
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
    /// One stands for any number of them.
    seen: mpsc::Receiver<()>,
}

impl Changes {
    fn watch(dir: &Path) -> notify::Result<Changes> {
        let (tell, seen) = mpsc::channel(1);
        let handle = move |event: notify::Result<Event>| {
            let is_change = event.is_ok_and(|event| {
                !event.kind.is_access()
                    && event.paths.iter().any(|path| path.file_name().is_none_or(is_source))
            });
            if is_change {
                // Full: it is told of already.
                let _ = tell.try_send(());
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

    /// Something has changed since the last look.
    fn are_told(&mut self) -> bool {
        let are_told = self.seen.try_recv().is_ok();
        if are_told {
            let _ = self.watch_folders();
        }
        are_told
    }

    /// Waits for a change, and for the end of those that come with it.
    async fn next(&mut self) {
        // The watcher, which tells of them, lives as long as this.
        let _ = self.seen.recv().await;
        let quiet = async { while tokio::time::timeout(QUIET, self.seen.recv()).await.is_ok() {} };
        let _ = tokio::time::timeout(QUIET_WITHIN, quiet).await;
        // New folders, too. One that is gone again is no matter.
        let _ = self.watch_folders();
    }
}

/// Hidden files are those of editors and version control.
fn is_source(name: &OsStr) -> bool {
    !name.as_encoded_bytes().starts_with(b".")
}
