//! `wasm-serve dev`: builds a project and serves it, and builds and swaps it whenever
//! something in the folder changes. The server is this program once more, as it is used
//! in production, and SIGHUP swaps the guest.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal, setsid,
};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use super::build::script;
use super::watched::{Changes, Stamp, stamp};
use crate::config::{self, CacheOptions, Options, own_program};
use crate::contract::GATEWAY;
use crate::guest::file;
use crate::guest::summary::Summary;
use crate::system::address_file::AddressFile;
use crate::terminal::say;

/// Longer than the time for which filesystems may give the same time.
const TICK: Duration = Duration::from_millis(20);
/// What changes during a build is built, too. But it may be the script that writes into its
/// own folder: then as many builds in a row that make what the one before has made are
/// enough, and as many that make something else each time.
const SAME_MAX: u32 = 2;
const OTHERS_MAX: u32 = 10;

pub(super) fn run(options: &config::Dev) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the server cannot be started")?;
    runtime.block_on(async { Session::begin(options)?.run().await })
}

struct Session<'a> {
    options: &'a config::Dev,
    /// What the server is given.
    server_options: Options,
    changes: Changes,
    stop: Stop,
    /// Where the guest is built: not in the project, which is watched.
    folder: tempfile::TempDir,
    /// A file whose time is set after each build.
    clock: File,
    server: Option<Child>,
    /// Something was built since the server was started.
    built_since: bool,
}

/// What became of a build.
struct Build {
    /// When it had ended, and its guest was not yet served.
    ended: Stamp,
    /// It made what the one before has made, if anything.
    same: bool,
}

impl Session<'_> {
    fn begin(options: &config::Dev) -> Result<Session<'_>> {
        let server = options.server()?;
        // Says what is wrong with the folder.
        script(&options.dir, Path::new("app.wasm"), server.cache())?;
        server.sockets().check()?;
        // The first build may take long.
        drop(server.address_file().map(AddressFile::begin).transpose()?);
        Ok(Session {
            options,
            server_options: server,
            clock: clock(&options.dir).context("no file can be made")?,
            changes: Changes::watch(&options.dir)
                .with_context(|| format!("{}: cannot be watched", options.dir.display()))?,
            stop: Stop::listen().context("signals cannot be received")?,
            folder: tempfile::tempdir().context("no folder to build in can be made")?,
            server: None,
            built_since: false,
        })
    }

    async fn run(mut self) -> Result<ExitCode> {
        // Builds in a row that were made for what changed during the one before: those with
        // the same result, and all.
        let (mut same, mut all) = (0, 0);
        loop {
            let Some(build) = self.build_and_serve().await? else { return self.stopped().await };
            same = if build.same { same + 1 } else { 0 };
            loop {
                tokio::select! {
                    changed = self.changes.next() => {
                        if changed.at >= build.ended {
                            (same, all) = (0, 0);
                            break;
                        }
                        if !changed.is_of_sources {
                            continue;
                        }
                        if same < SAME_MAX && all < OTHERS_MAX {
                            all += 1;
                            break;
                        }
                        say("Something in the folder changes with each build; waiting for another change");
                    }
                    () = self.stop.asked() => return self.stopped().await,
                    status = ended(&mut self.server) => {
                        let status = status?;
                        if status.success() {
                            return Ok(ExitCode::SUCCESS);
                        }
                        self.server = None;
                        if self.built_since {
                            say(format_args!("The server ended: {status}; serving what was built last"));
                            self.serve()?;
                        } else {
                            // No change of the project would give it an address that others have.
                            self.server_options.sockets().check()?;
                            say(format_args!("The server ended: {status}; waiting for a change"));
                        }
                    }
                }
            }
        }
    }

    /// Builds, and serves what was built; nothing if the session is to stop.
    async fn build_and_serve(&mut self) -> Result<Option<Build>> {
        let unfinished = self.folder.path().join("unfinished.wasm");
        // What a build that failed has left.
        let _ = std::fs::remove_file(&unfinished);
        say(format_args!("Building {}", self.options.dir.display()));
        let built = tokio::select! {
            built = run_script(&self.options.dir, &unfinished, self.server_options.cache()) => built,
            () = self.stop.asked() => return Ok(None),
        };
        tokio::time::sleep(TICK).await;
        let ended = self.now().context("no time of a file can be had")?;
        let same = match built.and_then(|()| self.take(&unfinished)) {
            Ok(same) => {
                self.swap()?;
                same
            }
            Err(error) => {
                let now = match self.server {
                    Some(_) => "the guest of before is served on",
                    None => "waiting for a change",
                };
                say(format_args!("The build failed: {error:#}; {now}"));
                false
            }
        };
        Ok(Some(Build { ended, same }))
    }

    /// The time by the clock of the filesystem that is watched, if that can be had.
    fn now(&self) -> io::Result<Stamp> {
        self.clock.set_modified(SystemTime::now())?;
        Ok(stamp(&self.clock.metadata()?))
    }

    /// Puts what was built into the place of the guest. Says whether it is the same.
    fn take(&self, built: &Path) -> Result<bool> {
        ensure!(built.exists(), "it made no file");
        let same = std::fs::read(built)? == std::fs::read(self.guest()).unwrap_or_default();
        // At once, since the server may be reading the one of before.
        std::fs::rename(built, self.guest())?;
        Ok(same)
    }

    fn guest(&self) -> PathBuf {
        self.folder.path().join("app.wasm")
    }

    /// Serves what was built, in the place of what a server that runs serves.
    fn swap(&mut self) -> Result<()> {
        if let Some(server) = &mut self.server
            && server.try_wait()?.is_none()
        {
            send(server, Signal::HUP);
            self.built_since = true;
            return Ok(());
        }
        self.serve()
    }

    fn serve(&mut self) -> Result<()> {
        let mut server = Command::new(own_program()?);
        if is_python(&self.guest()) {
            for (option, meaning) in self.options.for_python(&self.server_options) {
                say(format_args!("A Python application: {meaning}"));
                server.args(option);
            }
        }
        server.args(self.options.serve(&self.guest())).stdin(Stdio::null());
        begins_a_session(&mut server);
        self.server = Some(server.spawn().context("the server cannot be started")?);
        self.built_since = false;
        Ok(())
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

/// Lets a program run in a session and a process group of its own, so that a terminal's Ctrl-C
/// reaches it once, by way of here. It is stopped when this process is gone.
fn begins_a_session(program: &mut Command) {
    // SAFETY: nothing but system calls.
    unsafe {
        program.pre_exec(|| {
            setsid()?;
            Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
        })
    };
}

/// Runs the project's script, which is to make the guest `to`.
async fn run_script(dir: &Path, to: &Path, cache: &CacheOptions) -> Result<()> {
    let mut script = Command::from(script(dir, to, cache)?);
    script.stdin(Stdio::null()).kill_on_drop(true);
    begins_a_session(&mut script);
    let mut script = script.spawn().context("the script cannot be run")?;
    let mut group = Group(script.id().and_then(|id| Pid::from_raw(id as i32)));
    let status = script.wait().await?;
    // It may have left something for later builds.
    group.0 = None;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// A process group, which is stopped when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.map(|group| kill_process_group(group, Signal::TERM));
    }
}

/// Whether it is a component that was made of a Python file.
fn is_python(guest: &Path) -> bool {
    let summary = file::content(guest).and_then(|content| Summary::read(&content));
    summary.is_ok_and(|summary| summary.imports.iter().any(|import| import == GATEWAY))
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
    // One that has just ended takes none.
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

/// A file whose changes are told by the same clock as those in the project: one in it, if there
/// can be one. It is gone at once, so that nothing is left of it, and its name was a hidden one,
/// which is not watched.
fn clock(project: &Path) -> io::Result<File> {
    let hidden = tempfile::Builder::new().prefix(".wasm-serve-").tempfile_in(project);
    hidden.map(NamedTempFile::into_file).or_else(|_| tempfile::tempfile())
}
