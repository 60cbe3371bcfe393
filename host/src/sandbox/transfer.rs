//! What a guest call and the body of its response tell each other: who has ended, and who
//! still waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmtime_wasi_http::Error;

/// What a guest call and the body of its response tell each other.
pub struct Link {
    /// A `BodyState`.
    body: AtomicU8,
    /// Told when `body` changes.
    body_changes: Notify,
    /// The guest has ended, but its store is still there: what it sent of the body
    /// will end now, or never.
    ended: AtomicBool,
    /// The guest is to be left where it is.
    cut: AtomicBool,
    /// The store goes, and the body with it: its end means nothing.
    gone: AtomicBool,
    /// The task that waits for the body.
    reader: Mutex<Option<Waker>>,
    /// The guest is running in this moment.
    guest_runs: AtomicBool,
}

/// The body of a response, seen from the guest call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    Open,
    /// It is the request's body, which the guest only passed on: it needs the
    /// guest no more, and no core.
    PassedOn,
    /// Its last frame was handed over, or taken out of the guest's hands.
    Over,
    /// The client left, or the transfer broke.
    Abandoned,
}

impl BodyState {
    const ALL: [BodyState; 4] = [BodyState::Open, BodyState::PassedOn, BodyState::Over, BodyState::Abandoned];

    fn from_number(number: u8) -> BodyState {
        BodyState::ALL[number as usize]
    }
}

impl Link {
    pub fn new() -> Arc<Link> {
        Arc::new(Link {
            body: AtomicU8::new(BodyState::Open as u8),
            body_changes: Notify::new(),
            ended: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            reader: Mutex::new(None),
            guest_runs: AtomicBool::new(false),
        })
    }

    /// Waits until the body needs the guest no more.
    pub async fn body_needs_no_guest(&self) -> BodyState {
        self.body_state(|state| state != BodyState::Open).await
    }

    /// Waits for the end of the body, and says how it ended.
    pub async fn body_is_over(&self) -> BodyState {
        self.body_state(|state| matches!(state, BodyState::Over | BodyState::Abandoned)).await
    }

    async fn body_state(&self, wanted: fn(BodyState) -> bool) -> BodyState {
        loop {
            // Before the state is looked at, so that no change is missed.
            let changes = self.body_changes.notified();
            let state = self.body();
            if wanted(state) {
                return state;
            }
            changes.await;
        }
    }

    pub fn body(&self) -> BodyState {
        BodyState::from_number(self.body.load(Ordering::Acquire))
    }

    /// Notes whether the guest runs, for `note_request_is_read`.
    pub fn set_guest_runs(&self, runs: bool) {
        self.guest_runs.store(runs, Ordering::Relaxed);
    }

    /// Someone reads the request's body. If it is not the guest, then it is the
    /// response's body that does.
    pub fn note_request_is_read(&self) {
        if !self.guest_runs.load(Ordering::Relaxed) {
            self.set_body(BodyState::PassedOn);
        }
    }

    pub fn is_passed_on(&self) -> bool {
        self.body() == BodyState::PassedOn
    }

    /// What `wasi:http` 0.3 tells the guest about the transfer.
    pub async fn sent(self: Arc<Self>) -> Result<(), Error> {
        match self.body_is_over().await {
            BodyState::Over => Ok(()),
            _ => Err(Error::ConnectionTerminated),
        }
    }

    /// Whoever polls the guest call next finds it ended, if it is one of `wasi:http` 0.3 that
    /// has answered.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The guest has ended. What it has sent of the body is still delivered; if
    /// that is not all, the transfer breaks.
    pub fn guest_has_ended(&self) {
        self.ended.store(true, Ordering::Release);
        if let Some(reader) = self.reader.lock().take() {
            reader.wake();
        }
    }

    /// The guest's store is about to be dropped before the body is over.
    pub fn abandon_guest(&self) {
        self.gone.store(true, Ordering::Release);
        self.guest_has_ended();
    }

    pub fn sends_no_more(&self) -> bool {
        self.ended.load(Ordering::Acquire) && !self.is_passed_on()
    }

    /// The body lost its guest before it was over.
    pub fn guest_is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) && !matches!(self.body(), BodyState::PassedOn | BodyState::Over)
    }

    /// True if the body's task will be woken when the guest ends, false if it has.
    pub fn waits_for_guest(&self, cx: &Context<'_>) -> bool {
        // In this order, so that the end is either seen or wakes.
        *self.reader.lock() = Some(cx.waker().clone());
        !self.sends_no_more()
    }

    /// A body that has ended stays as it ended.
    pub fn set_body(&self, state: BodyState) {
        let change = |number| {
            let now = BodyState::from_number(number);
            let changes = matches!(now, BodyState::Open | BodyState::PassedOn) && now != state;
            changes.then_some(state as u8)
        };
        if self.body.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok() {
            self.body_changes.notify_waiters();
        }
    }
}
