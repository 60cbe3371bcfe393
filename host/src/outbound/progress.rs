//! How far a request is that may need a connection of its own: its time for a response begins
//! when it has one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// How far a request is that may need a connection of its own.
pub(super) struct Progress {
    /// How long connecting may take.
    pub(super) connect: Duration,
    state: Mutex<Connecting>,
}

#[derive(Clone, Copy)]
enum Connecting {
    NotBegun,
    Since(Instant),
    Until { connected: Instant, time: Duration },
}

impl Progress {
    pub(super) fn new(connect: Duration) -> Arc<Progress> {
        Arc::new(Progress { connect, state: Mutex::new(Connecting::NotBegun) })
    }

    /// The same request, for whose connection it is then `current`.
    pub(super) fn of<F: Future>(self: Arc<Self>, request: F) -> impl Future<Output = F::Output> {
        PROGRESS.scope(self, request)
    }

    /// That of the request for which the library asks for a connection.
    pub(super) fn current() -> Option<Arc<Progress>> {
        let progress = PROGRESS.try_with(Arc::clone).ok()?;
        *progress.state.lock() = Connecting::Since(Instant::now());
        Some(progress)
    }

    pub(super) fn connected(&self) {
        let mut state = self.state.lock();
        if let Connecting::Since(since) = *state {
            let connected = Instant::now();
            *state = Connecting::Until { connected, time: connected - since };
        }
    }

    /// How long connecting took, if it had to and is over.
    pub(super) fn time(&self) -> Option<Duration> {
        match *self.state.lock() {
            Connecting::Until { time, .. } => Some(time),
            Connecting::NotBegun | Connecting::Since(_) => None,
        }
    }

    /// When a response must have begun, if that is later than now.
    pub(super) fn later(&self, first_byte: Duration) -> Option<Instant> {
        let deadline = match *self.state.lock() {
            Connecting::NotBegun => return None,
            // Whoever connects ends it in time.
            Connecting::Since(since) => {
                (since + self.connect).max(Instant::now()) + Duration::from_millis(50)
            }
            Connecting::Until { connected, .. } => connected + first_byte,
        };
        (deadline > Instant::now()).then_some(deadline)
    }
}
