//! What a guest call and the bodies of its request and response tell each other: three states,
//! who may change them, and who waits for that.
//!
//! `GuestState` is changed by the one who drives the guest call, who alone has the `Driver`;
//! `Verdict` by the request's body; `BodyState` by whoever brings it about: the driver, the
//! response's body, and the request's body when it is read for the response.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmtime_wasi_http::Error;

pub(crate) use super::transfer_states::{BodyState, Verdict};
use super::transfer_states::{GuestState, Step};

/// What a guest call and the bodies of its request and response tell each other.
pub(crate) struct Link {
    /// A `BodyState`.
    body: AtomicU8,
    /// Told when `body` changes.
    body_changes: Notify,
    /// A `GuestState`.
    guest: AtomicU8,
    /// A `Verdict`, or 0.
    verdict: AtomicU8,
    /// The task that waits for the body.
    reader: Mutex<Option<Waker>>,
}

impl Link {
    /// Waits until the body needs the guest no more.
    pub(crate) async fn body_needs_no_guest(&self) -> BodyState {
        self.body_state(|state| state != BodyState::Open).await
    }

    /// Waits for the end of the body, and says how it ended.
    pub(crate) async fn body_is_over(&self) -> BodyState {
        self.body_state(BodyState::has_ended).await
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

    fn body(&self) -> BodyState {
        BodyState::from_number(self.body.load(Ordering::Acquire))
    }

    fn guest(&self) -> GuestState {
        GuestState::from_number(self.guest.load(Ordering::Acquire))
    }

    /// Someone reads the request's body. If it is not the guest, then it is the
    /// response's body that does.
    pub(crate) fn note_request_is_read(&self) {
        if !self.guest().runs() {
            self.tell_body(BodyState::PassedOn);
        }
    }

    pub(crate) fn is_passed_on(&self) -> bool {
        self.body() == BodyState::PassedOn
    }

    /// The verdict on the request's body, which nobody reads any further.
    pub(crate) fn judge_request(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Ordering::Relaxed);
    }

    /// What is wrong with the request's body, as far as it was read.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        Verdict::from_number(self.verdict.load(Ordering::Relaxed))
    }

    /// What `wasi:http` 0.3 tells the guest about the transfer.
    pub(crate) async fn sent(self: Arc<Self>) -> Result<(), Error> {
        match self.body_is_over().await {
            BodyState::Over => Ok(()),
            _ => Err(Error::ConnectionTerminated),
        }
    }

    /// The guest is to end here, if it is one of `wasi:http` 0.3 that has answered.
    pub(crate) fn is_cut(&self) -> bool {
        self.guest().is_cut()
    }

    pub(crate) fn sends_no_more(&self) -> bool {
        self.guest().has_ended() && !self.is_passed_on()
    }

    /// The body lost its guest before it was over.
    pub(crate) fn guest_is_gone(&self) -> bool {
        self.guest() == GuestState::Gone && !matches!(self.body(), BodyState::PassedOn | BodyState::Over)
    }

    /// True if the body's task will be woken when the guest ends, false if it has.
    pub(crate) fn waits_for_guest(&self, cx: &Context<'_>) -> bool {
        // In this order, so that the end is either seen or wakes.
        *self.reader.lock() = Some(cx.waker().clone());
        !self.sends_no_more()
    }

    /// The whole body was handed over, or taken out of the guest's hands.
    pub(crate) fn complete_body(&self) {
        self.tell_body(BodyState::Over);
    }

    /// The client left, the guest gave the body up, or the transfer broke.
    pub(crate) fn abandon_body(&self) {
        self.tell_body(BodyState::Abandoned);
    }

    fn tell_body(&self, next: BodyState) {
        let change = |now| BodyState::from_number(now).becoming(next).map(|next| next as u8);
        if self.body.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok() {
            self.body_changes.notify_waiters();
        }
    }
}

/// The side of the one who drives the guest call: nobody else can say what the guest does.
pub(crate) struct Driver(Arc<Link>);

impl Default for Driver {
    /// The driver of a call that has not begun, whose body is open.
    fn default() -> Driver {
        Driver(Arc::new(Link {
            body: AtomicU8::new(BodyState::Open as u8),
            body_changes: Notify::new(),
            guest: AtomicU8::new(GuestState::Rests as u8),
            verdict: AtomicU8::new(0),
            reader: Mutex::new(None),
        }))
    }
}

impl Driver {
    /// For the guest, and for the bodies of request and response.
    pub(crate) fn link(&self) -> Arc<Link> {
        self.0.clone()
    }

    /// Runs the guest, or lets it run as far as it can.
    pub(crate) fn run<T>(&self, run: impl FnOnce() -> T) -> T {
        self.step(Step::Run);
        let unwinding = Unwinding(self);
        let result = run();
        std::mem::forget(unwinding);
        self.step(Step::Rest);
        result
    }

    /// The guest is to be left where it is.
    pub(crate) fn cut(&self) {
        self.step(Step::Cut);
    }

    /// The guest has ended. What it has sent of the body is still delivered; if
    /// that is not all, the transfer breaks.
    pub(crate) fn end(&self) {
        self.step(Step::End);
        self.wake_reader();
    }

    /// The guest's store is about to be dropped before the body is over.
    pub(crate) fn leave(&self) {
        self.step(Step::Leave);
        self.wake_reader();
    }

    /// Nobody else writes it: so it need not be read and written at once.
    fn step(&self, step: Step) {
        let state = GuestState::from_number(self.0.guest.load(Ordering::Relaxed));
        self.0.guest.store(state.after(step) as u8, Ordering::Release);
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.0.reader.lock().take() {
            reader.wake();
        }
    }
}

/// Dropped by a panic of the host within a guest's call: its store goes, and the end that the
/// body then shows means nothing.
struct Unwinding<'a>(&'a Driver);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Deref for Driver {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    #[test]
    fn only_one_who_is_not_the_guest_passes_the_body_on() {
        let driver = Driver::default();
        driver.run(|| driver.note_request_is_read());
        assert!(!driver.is_passed_on());
        driver.cut();
        driver.run(|| driver.note_request_is_read());
        assert!(driver.is_cut() && !driver.is_passed_on());
        driver.note_request_is_read();
        assert!(driver.is_passed_on());
        driver.complete_body();
        driver.note_request_is_read();
        assert!(!driver.is_passed_on());
    }

    #[test]
    fn a_body_whose_guest_panicked_does_not_pass_as_whole() {
        let driver = Driver::default();
        let link = driver.link();
        let panic = || driver.run(|| panic!("the host's"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panic)).unwrap_err();
        drop(driver);
        assert!(link.guest_is_gone());
    }

    #[test]
    fn a_body_loses_its_guest_unless_it_needs_it_no_more() {
        let cx = Context::from_waker(noop_waker_ref());
        type Telling = fn(&Link);
        let tellings: [(Telling, bool, bool); 4] = [
            (|_| {}, true, true),
            (Link::note_request_is_read, false, false),
            (Link::complete_body, true, false),
            (Link::abandon_body, true, true),
        ];
        for (tell, sends_no_more, is_gone) in tellings {
            let driver = Driver::default();
            assert!(driver.waits_for_guest(&cx));
            tell(&driver);
            driver.end();
            assert_eq!((driver.sends_no_more(), driver.guest_is_gone()), (sends_no_more, false));
            driver.leave();
            assert_eq!((driver.sends_no_more(), driver.guest_is_gone()), (sends_no_more, is_gone));
            assert_eq!(driver.waits_for_guest(&cx), !sends_no_more);
        }
    }
}
