//! What the HTTP library does not watch on a connection: since when a head is
//! coming, since when the client takes nothing, and which request is malformed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::fault::Fault;
use super::frames::Coming;
use crate::clock::{self, Nanos};

/// What happens on one connection, told between its socket, its requests and
/// the task that watches it. 0 stands for «no such time».
#[derive(Debug)]
pub(super) struct Activity {
    is_http1: bool,
    /// Requests whose response is not complete.
    requests: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    /// Since when the server sends no more, and reads on.
    lingers_since: AtomicU64,
    /// When a request came, or some of a response was taken.
    progress_at: AtomicU64,
    /// How many requests have begun.
    begun: AtomicU64,
    /// Which of them is malformed, from 1, and how. Nothing that follows it is read.
    malformed: AtomicU64,
    fault: AtomicU8,
    /// Of HTTP/1: the request whose body has not come in whole, the one whose body someone reads,
    /// may read or has read, and the one whose response has its head.
    incomplete: AtomicU64,
    wanted: AtomicU64,
    answered: AtomicU64,
    /// Bytes of its response have left.
    response_has_begun: AtomicBool,
    /// Its client knows interim responses (HTTP/1.1).
    takes_interim: AtomicBool,
    /// The task that is to read the socket again, where the end is, once the response to
    /// all that came before has left.
    reader: Mutex<Option<Waker>>,
}

/// The time that a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub idle: Duration,
    pub head: Duration,
    pub write: Duration,
    /// For what it still sends when the server sends no more.
    pub linger: Duration,
    /// For a request from its head to the end of its response, if no part of it
    /// takes longer than it may.
    pub request: Duration,
}

impl Activity {
    /// The activity of a connection whose first bytes came at `head_since`.
    pub(super) fn new(is_http1: bool, head_since: Nanos) -> Arc<Activity> {
        Arc::new(Activity {
            is_http1,
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(head_since),
            head_since: AtomicU64::new(if is_http1 { head_since } else { 0 }),
            blocked_since: AtomicU64::new(0),
            lingers_since: AtomicU64::new(0),
            progress_at: AtomicU64::new(head_since),
            begun: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            incomplete: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            fault: AtomicU8::new(0),
            response_has_begun: AtomicBool::new(false),
            takes_interim: AtomicBool::new(false),
            reader: Mutex::default(),
        })
    }

    /// Notes that a head was read. Gives the number of its request, from 1.
    pub(super) fn begin(&self, takes_interim: bool) -> u64 {
        if self.is_http1 {
            self.head_since.store(0, Relaxed);
        }
        self.response_has_begun.store(false, Relaxed);
        self.takes_interim.store(takes_interim, Relaxed);
        self.note_progress();
        self.requests.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed) + 1
    }

    /// Notes that a response is complete, or never will be.
    pub(super) fn end(&self) {
        self.note_progress();
        if self.requests.fetch_sub(1, Relaxed) == 1 {
            self.idle_since.store(clock::coarse(), Relaxed);
            self.wake_reader();
        }
    }

    /// The body of the request with this number has not come in whole; 0 is none.
    pub(super) fn note_incomplete(&self, number: u64) {
        self.incomplete.store(number, Relaxed);
    }

    pub(super) fn is_incomplete(&self, number: u64) -> bool {
        self.incomplete.load(Relaxed) == number
    }

    /// Someone has the body of the request with this number, and may read it to its end.
    pub(super) fn note_body_is_wanted(&self, number: u64) {
        self.wanted.store(number, Relaxed);
    }

    /// Nobody will read the rest of it.
    pub(super) fn note_body_is_left(&self, number: u64) {
        let _ = self.wanted.compare_exchange(number, 0, Relaxed, Relaxed);
    }

    /// The response to the request with this number is about to begin. True if the HTTP library
    /// will close the connection behind it, because nobody reads the request's body: it throws
    /// away no more than it finds in one look, which is one chunk or what has come of a body
    /// with a length.
    pub(super) fn leaves_body(&self, number: u64, is_chunked: bool) -> bool {
        self.answered.store(number, Relaxed);
        let is_left = self.is_http1 && self.wanted.load(Relaxed) != number;
        is_left && (is_chunked || self.is_incomplete(number))
    }

    /// It is too late to say that the connection ends with this request.
    pub(super) fn is_answered(&self, number: u64) -> bool {
        self.answered.load(Relaxed) == number
    }

    /// The request with this number is malformed.
    pub(super) fn note_fault(&self, number: u64, fault: Fault) {
        self.fault.store(fault as u8, Relaxed);
        self.malformed.store(number, Relaxed);
    }

    /// What is malformed in the request with this number, as far as it has come.
    pub(super) fn fault_of(&self, number: u64) -> Option<Fault> {
        let is_malformed = self.malformed.load(Relaxed) == number;
        is_malformed.then(|| Fault::from_number(self.fault.load(Relaxed))).flatten()
    }

    /// The socket has met the end of what the client sends, behind whole requests. True if
    /// that is to be kept from the HTTP library, which takes it for a client that is gone:
    /// one that waits for a response, or has not taken all of it, need not send anything.
    /// The task is woken when that changes.
    pub(super) fn keeps_end(&self, cx: &Context<'_>) -> bool {
        let is_blocked = self.blocked_since.load(Relaxed) != 0;
        if !self.is_http1 || !self.has_request() && !is_blocked {
            return false;
        }
        *self.reader.lock() = Some(cx.waker().clone());
        true
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.lock().take() {
            reader.wake();
        }
    }

    /// Nothing is coming in, under way or going out, as far as HTTP/1 is
    /// concerned; what HTTP/2 still has to send does not show here.
    pub(super) fn is_idle(&self) -> bool {
        let times = [&self.head_since, &self.blocked_since, &self.lingers_since];
        !self.has_request() && times.iter().all(|since| since.load(Relaxed) == 0)
    }

    /// The server sends no more, and reads on.
    pub(super) fn begin_to_linger(&self) {
        let _ = self.lingers_since.compare_exchange(0, clock::coarse(), Relaxed, Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers_since.load(Relaxed) != 0
    }

    pub(super) fn is_http1(&self) -> bool {
        self.is_http1
    }

    /// Some of a response was taken.
    pub(super) fn note_progress(&self) {
        self.progress_at.store(clock::coarse(), Relaxed);
    }

    /// When the client will have taken too long, as things stand.
    pub(super) fn deadline(&self, patience: &Patience) -> Nanos {
        let end = |since: Nanos, time: Duration| since.saturating_add(time.as_nanos() as Nanos);
        let lingers_since = self.lingers_since.load(Relaxed);
        if lingers_since != 0 {
            return end(lingers_since, patience.linger);
        }
        let blocked_since = self.blocked_since.load(Relaxed);
        let write = if blocked_since == 0 { Nanos::MAX } else { end(blocked_since, patience.write) };
        let head_since = self.head_since.load(Relaxed);
        let head = if head_since == 0 { Nanos::MAX } else { end(head_since, patience.head) };
        let other = if self.has_request() {
            end(self.progress_at.load(Relaxed), patience.request)
        } else if head_since == 0 {
            end(self.idle_since.load(Relaxed), patience.idle)
        } else {
            Nanos::MAX
        };
        write.min(head).min(other)
    }

    /// Bytes of HTTP/1 came in.
    pub(super) fn note_read(&self) {
        if !self.has_request() && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(clock::coarse(), Relaxed);
        }
    }

    /// Bytes of HTTP/2 came in. What is not part of a request gives the client no more time
    /// for one.
    pub(super) fn note_frames(&self, coming: Coming) {
        match coming {
            Coming::Nothing => self.head_since.store(0, Relaxed),
            Coming::Head { is_new } if is_new || self.head_since.load(Relaxed) == 0 => {
                self.head_since.store(clock::coarse(), Relaxed);
            }
            Coming::Head { .. } => {}
        }
    }

    /// The result of writing bytes.
    pub(super) fn note_write<T>(&self, write: &Poll<T>) {
        if write.is_ready() {
            let was_blocked = self.blocked_since.swap(0, Relaxed) != 0;
            self.response_has_begun.store(true, Relaxed);
            if was_blocked && !self.has_request() {
                self.wake_reader();
            }
        } else if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(clock::coarse(), Relaxed);
        }
    }

    /// A request is under way.
    pub(super) fn has_request(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// An interim response may be sent without disturbing anything.
    pub(super) fn may_probe(&self) -> bool {
        self.takes_interim.load(Relaxed)
            && self.has_request()
            && !self.response_has_begun.load(Relaxed)
            && self.blocked_since.load(Relaxed) == 0
    }
}
