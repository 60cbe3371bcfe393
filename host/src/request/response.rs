//! The response's way from the guest to the HTTP library: its body, and the link
//! through which the body and the guest call learn of each other's end.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmtime_wasi_http::{Error, WasiBody};

use super::access_log::{End, Record};
use super::unsent::{Held, Unsent};
use crate::clock;
use crate::connection::activity::InFlight;
use crate::sandbox::deadline::Deadline;

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

    fn body(&self) -> BodyState {
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

    fn sends_no_more(&self) -> bool {
        self.ended.load(Ordering::Acquire) && !self.is_passed_on()
    }

    /// The body lost its guest before it was over.
    pub fn guest_is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) && !matches!(self.body(), BodyState::PassedOn | BodyState::Over)
    }

    /// True if the body's task will be woken when the guest ends, false if it has.
    fn waits_for_guest(&self, cx: &Context<'_>) -> bool {
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

/// Looks for a frame of a guest's body. Pending means that none is there: tokio's
/// cooperative budget, which makes its channels say so too when a task has done
/// much, is left out.
pub fn poll_frame_now(
    body: &mut WasiBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    pin!(tokio::task::unconstrained(frame)).poll(cx)
}

/// The transfer of a body broke: the client must not take it for complete.
#[derive(Debug)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the guest ended before the response's body was complete")
    }
}

impl std::error::Error for Broken {}

/// The body of a response, as the HTTP library takes it.
pub struct ResponseBody {
    /// Frames that were there before the head was sent.
    ready: VecDeque<Frame<Bytes>>,
    rest: Rest,
    /// What is missing to the length that the head promised.
    bytes_missing: Option<u64>,
    record: Option<Record>,
    /// Lets the connection know when the response is over.
    in_flight: Option<InFlight>,
    /// The room that the ready frames take.
    _held: Option<Held>,
}

/// What follows the ready frames.
enum Rest {
    Nothing,
    /// The HTTP library gets the error in its second look, after it has sent what
    /// came before.
    Broken {
        was_seen: bool,
    },
    Guest {
        body: Arc<Unsent>,
        link: Arc<Link>,
        deadline: Arc<Deadline>,
    },
}

impl ResponseBody {
    /// A body that is complete. `length` is what the head says: the HTTP library takes it for
    /// granted, and a client would take the next response for what is missing.
    pub fn complete(frames: VecDeque<Frame<Bytes>>, length: Option<u64>) -> ResponseBody {
        let bytes: u64 = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        match length {
            Some(length) if length != bytes => ResponseBody::broken(frames, Some(length)),
            _ => ResponseBody::new(frames, Rest::Nothing, length),
        }
    }

    /// A body that breaks off after `frames`.
    pub fn broken(frames: VecDeque<Frame<Bytes>>, length: Option<u64>) -> ResponseBody {
        ResponseBody::new(frames, Rest::Broken { was_seen: false }, length)
    }

    /// A body whose guest is still writing it.
    pub fn streaming(
        frames: VecDeque<Frame<Bytes>>,
        body: Arc<Unsent>,
        link: Arc<Link>,
        deadline: Arc<Deadline>,
        length: Option<u64>,
    ) -> ResponseBody {
        ResponseBody::new(frames, Rest::Guest { body, link, deadline }, length)
    }

    fn new(ready: VecDeque<Frame<Bytes>>, rest: Rest, bytes_missing: Option<u64>) -> ResponseBody {
        ResponseBody { ready, rest, bytes_missing, record: None, in_flight: None, _held: None }
    }

    /// Gives the record of the request, which is written when this body is over.
    pub fn set_record(&mut self, record: Record) {
        self.record = Some(record);
    }

    pub fn set_held(&mut self, held: Option<Held>) {
        self._held = held;
    }

    pub fn set_in_flight(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// Counts a frame. False if it is more than the head promised.
    fn count(&mut self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(missing) = &mut self.bytes_missing {
            let Some(still_missing) = missing.checked_sub(bytes) else { return false };
            *missing = still_missing;
        }
        if let Some(record) = &mut self.record {
            record.body_bytes += bytes;
        }
        if let Some(in_flight) = &self.in_flight {
            in_flight.note_progress();
        }
        true
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let is_malformed = self.in_flight.as_ref().is_some_and(InFlight::is_malformed);
        match &mut self.rest {
            Rest::Nothing => Poll::Ready(None),
            Rest::Broken { was_seen: true } => Poll::Ready(Some(Err(Broken))),
            Rest::Broken { was_seen } => {
                *was_seen = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Rest::Guest { .. } if is_malformed => self.break_off(cx),
            // A body that its guest passed on has nobody else to stop it.
            Rest::Guest { link, deadline, .. } if link.is_passed_on() && deadline.nanos() <= clock::now() => {
                self.break_off(cx)
            }
            Rest::Guest { body, link, .. } => {
                // Asked before the body is looked at: a guest that has ended by
                // now has sent all that there is to find.
                let more_may_come = link.waits_for_guest(cx);
                match body.poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                    Poll::Ready(None) if self.bytes_missing.map_or(!link.guest_is_gone(), |n| n == 0) => {
                        self.complete_now()
                    }
                    Poll::Pending if more_may_come || link.is_passed_on() => Poll::Pending,
                    // All that the head promised has come, however its guest has ended.
                    Poll::Pending | Poll::Ready(Some(Err(_)))
                        if self.bytes_missing == Some(0) && !more_may_come =>
                    {
                        self.complete_now()
                    }
                    Poll::Pending | Poll::Ready(Some(Err(_)) | None) => self.break_off(cx),
                }
            }
        }
    }

    fn complete_now(&mut self) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.note_end(End::Complete);
        self.rest = Rest::Nothing;
        Poll::Ready(None)
    }

    fn break_off(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.note_end(End::Broken);
        self.rest = Rest::Broken { was_seen: false };
        self.poll_rest(cx)
    }

    /// Tells the guest call and the record how the body ended.
    fn note_end(&mut self, end: End) {
        if let Rest::Guest { link, .. } = &self.rest {
            link.set_body(if end == End::Complete { BodyState::Over } else { BodyState::Abandoned });
        }
        if let Some(record) = &mut self.record {
            record.end = end;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match self.ready.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => ready!(self.poll_rest(cx)),
        };
        match &frame {
            Some(Ok(data)) if !self.count(data) => {
                self.ready.clear();
                self.break_off(cx)
            }
            _ => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && matches!(self.rest, Rest::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        let lengths = self.ready.iter().map(|frame| frame.data_ref().map(|data| data.len() as u64));
        match (&self.rest, lengths.sum::<Option<u64>>()) {
            // Trailers, which have no length, need a body that is chunked.
            (Rest::Nothing, Some(length)) => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    /// The HTTP library drops a body after its last byte, without asking whether
    /// there is more, or when the client is gone.
    fn drop(&mut self) {
        let all_sent = self.ready.is_empty();
        let complete = match &self.rest {
            Rest::Nothing => all_sent,
            Rest::Broken { .. } => return self.note_end(End::Broken),
            Rest::Guest { .. } => all_sent && self.bytes_missing == Some(0),
        };
        self.note_end(if complete { End::Complete } else { End::Cancelled });
    }
}

impl From<String> for ResponseBody {
    fn from(text: String) -> ResponseBody {
        ResponseBody::complete(VecDeque::from([Frame::data(Bytes::from(text))]), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    struct Channel(mpsc::Receiver<Bytes>);

    impl Body for Channel {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn a_frame_is_found_by_a_task_that_has_done_much() {
        let (sender, receiver) = mpsc::channel(10_000);
        for _ in 0..10_000 {
            sender.try_send(Bytes::from_static(b"x")).unwrap();
        }
        let mut body = Channel(receiver).boxed_unsync();
        std::future::poll_fn(|cx| {
            let mut found = 0;
            while Pin::new(&mut body).poll_frame(cx).is_ready() {
                found += 1;
            }
            assert!(found < 10_000, "the budget has no end, and this test no sense");
            assert!(poll_frame_now(&mut body, cx).is_ready());
            Poll::Ready(())
        })
        .await;
    }
}
