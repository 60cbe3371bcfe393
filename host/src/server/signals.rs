//! The signals that a server acts on, and what each asks for.

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::telemetry::log::Log;

/// The signals that the server acts on.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    changes: Changes,
}

/// Those after which it goes on. They would end it, unless it listens for them from the
/// beginning; until it serves they wait.
pub(super) struct Changes {
    reopen: Signal,
    reload: Signal,
}

impl Changes {
    pub(super) fn listen() -> Result<Changes> {
        Ok(Changes { reopen: signal(SignalKind::user_defined1())?, reload: signal(SignalKind::hangup())? })
    }
}

/// A file that may not become as large as it is to be (`ulimit -f`) is an error for who writes it, who may be
/// a guest, and not the end of the server.
pub(super) fn survive_file_limits() {
    // SAFETY: it changes what this signal does, and nothing else has a say in that.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Stop,
    ReopenLog,
    Reload,
}

impl Signals {
    pub(super) fn listen(changes: Changes) -> Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            changes,
        })
    }

    /// Waits until the server is asked to stop, and does meanwhile what else is
    /// asked.
    pub(super) async fn stop(&mut self, log: &Log, reload: impl Fn()) {
        loop {
            let asked = tokio::select! {
                _ = self.terminate.recv() => Asked::Stop,
                _ = self.interrupt.recv() => Asked::Stop,
                _ = self.changes.reopen.recv() => Asked::ReopenLog,
                _ = self.changes.reload.recv() => Asked::Reload,
            };
            match asked {
                Asked::Stop => return,
                Asked::ReopenLog => log.reopen(),
                Asked::Reload => reload(),
            }
        }
    }
}
