//! What the HTTP library does not watch on a connection: since when a head is
//! coming, since when the client takes nothing, and whether one that stopped
//! sending has sent a whole request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{self, Nanos};

/// What happens on one connection, told between its socket, its requests and
/// the task that watches it. 0 stands for «no such time».
#[derive(Debug)]
pub struct Activity {
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
    /// The one request of an HTTP/1 connection has come in whole.
    request_is_whole: AtomicBool,
    /// Bytes of its response have left.
    response_has_begun: AtomicBool,
    /// Its client knows interim responses (HTTP/1.1).
    takes_interim: AtomicBool,
    end_of_input: Mutex<EndOfInput>,
}

/// The client of an HTTP/1 connection sends no more: was its request whole? The
/// socket cannot tell, and the HTTP library does not say; but if whoever reads
/// the body still finds nothing to read after the end was seen, it was not.
#[derive(Debug, Default)]
struct EndOfInput {
    is_seen: bool,
    body_is_cut_short: bool,
    /// The task that reads the socket.
    socket: Option<Waker>,
    /// The task that waits for more of the body.
    body: Option<Waker>,
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

impl EndOfInput {
    fn wake_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.wake();
        }
    }
}

impl Activity {
    /// The activity of a connection whose first bytes came at `head_since`.
    pub fn new(is_http1: bool, head_since: Nanos) -> Arc<Activity> {
        Arc::new(Activity {
            is_http1,
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(head_since),
            head_since: AtomicU64::new(if is_http1 { head_since } else { 0 }),
            blocked_since: AtomicU64::new(0),
            lingers_since: AtomicU64::new(0),
            progress_at: AtomicU64::new(head_since),
            request_is_whole: AtomicBool::new(false),
            response_has_begun: AtomicBool::new(false),
            takes_interim: AtomicBool::new(false),
            end_of_input: Mutex::default(),
        })
    }

    /// Notes that a head was read; the guard stands for its request. It must be
    /// known at once whether a body follows: the next read may meet the end.
    pub fn begin(self: &Arc<Self>, has_body: bool, takes_interim: bool) -> InFlight {
        self.head_since.store(0, Relaxed);
        self.request_is_whole.store(!has_body, Relaxed);
        self.response_has_begun.store(false, Relaxed);
        self.takes_interim.store(takes_interim, Relaxed);
        *self.end_of_input.lock() = EndOfInput::default();
        self.note_progress();
        self.requests.fetch_add(1, Relaxed);
        InFlight(self.clone())
    }

    /// The body of the request has come in whole.
    pub fn request_is_whole(&self) {
        self.request_is_whole.store(true, Relaxed);
    }

    /// The client has been seen to send no more.
    pub fn end_is_seen(&self) -> bool {
        self.end_of_input.lock().is_seen
    }

    /// Whoever reads the body of the request found nothing to read. Only if the
    /// end was seen before it looked is there nothing more to come.
    pub fn body_waits(&self, end_was_seen: bool, cx: &Context<'_>) {
        let mut end = self.end_of_input.lock();
        end.body = Some(cx.waker().clone());
        if end.is_seen && end_was_seen {
            end.body_is_cut_short = true;
            end.wake_socket();
        } else if end.is_seen {
            cx.waker().wake_by_ref();
        }
    }

    /// The socket has met the end of what the client sends. True if that is to be
    /// kept from the HTTP library, which takes it for a client that is gone and
    /// sends no more: one that waits for a response to a whole request, or has not
    /// taken all of it, need not send anything. The task is woken when that changes.
    pub fn keeps_end(&self, cx: &Context<'_>) -> bool {
        let is_blocked = self.blocked_since.load(Relaxed) != 0;
        if !self.is_http1 || !self.has_request() && !is_blocked {
            return false;
        }
        let mut end = self.end_of_input.lock();
        end.socket = Some(cx.waker().clone());
        if !self.has_request() {
            return true;
        }
        end.is_seen = true;
        if let Some(body) = end.body.take() {
            // It looks once more, knowing that this was the end.
            body.wake();
        }
        self.request_is_whole.load(Relaxed) || !end.body_is_cut_short
    }

    /// Nothing is coming in, under way or going out, as far as HTTP/1 is
    /// concerned; what HTTP/2 still has to send does not show here.
    pub fn is_idle(&self) -> bool {
        let times = [&self.head_since, &self.blocked_since, &self.lingers_since];
        !self.has_request() && times.iter().all(|since| since.load(Relaxed) == 0)
    }

    /// The client has not sent all that it was about to send, as far as one can tell.
    pub fn is_sending(&self) -> bool {
        let is_within_one = !self.request_is_whole.load(Relaxed) || self.head_since.load(Relaxed) != 0;
        !self.is_http1 || is_within_one || self.lingers_since.load(Relaxed) != 0
    }

    /// The server sends no more, and reads on.
    pub fn lingers(&self) {
        let _ = self.lingers_since.compare_exchange(0, clock::coarse(), Relaxed, Relaxed);
    }

    pub fn is_http1(&self) -> bool {
        self.is_http1
    }

    /// Some of a response was taken.
    pub fn note_progress(&self) {
        self.progress_at.store(clock::coarse(), Relaxed);
    }

    /// When the client will have taken too long, as things stand.
    pub fn deadline(&self, patience: &Patience) -> Nanos {
        let end = |since: Nanos, time: Duration| since.saturating_add(time.as_nanos() as Nanos);
        let lingers_since = self.lingers_since.load(Relaxed);
        if lingers_since != 0 {
            return end(lingers_since, patience.linger);
        }
        let blocked_since = self.blocked_since.load(Relaxed);
        let write = if blocked_since == 0 { Nanos::MAX } else { end(blocked_since, patience.write) };
        if self.has_request() {
            return write.min(end(self.progress_at.load(Relaxed), patience.request));
        }
        let head_since = self.head_since.load(Relaxed);
        let read = if head_since == 0 {
            end(self.idle_since.load(Relaxed), patience.idle)
        } else {
            end(head_since, patience.head)
        };
        write.min(read)
    }

    /// Bytes came in.
    pub fn note_read(&self) {
        if self.has_request() {
            return;
        }
        if !self.is_http1 {
            // Which may be a ping as well as a head.
            self.idle_since.store(clock::coarse(), Relaxed);
        } else if self.head_since.load(Relaxed) == 0 {
            self.head_since.store(clock::coarse(), Relaxed);
        }
    }

    /// The result of writing bytes.
    pub fn note_write<T>(&self, write: &Poll<T>) {
        if write.is_ready() {
            let was_blocked = self.blocked_since.swap(0, Relaxed) != 0;
            self.response_has_begun.store(true, Relaxed);
            if was_blocked && !self.has_request() {
                self.end_of_input.lock().wake_socket();
            }
        } else if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(clock::coarse(), Relaxed);
        }
    }

    /// A request is under way.
    pub fn has_request(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// An interim response may be sent without disturbing anything.
    pub fn may_probe(&self) -> bool {
        self.takes_interim.load(Relaxed)
            && self.has_request()
            && !self.response_has_begun.load(Relaxed)
            && self.blocked_since.load(Relaxed) == 0
    }
}

/// One request of a connection, from its head until its response is complete.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.note_progress();
        if self.0.requests.fetch_sub(1, Relaxed) == 1 {
            self.0.idle_since.store(clock::coarse(), Relaxed);
            self.0.end_of_input.lock().wake_socket();
        }
    }
}

impl InFlight {
    /// Some of the response was taken.
    pub fn note_progress(&self) {
        self.0.note_progress();
    }
}
