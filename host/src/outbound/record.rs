//! What is known of one request of a guest, or of one connection of its sockets, once it is over:
//! counts, and a line in the log if that is wanted. It has nothing that could be a secret: of a URL
//! the host alone, since many services take a key in the query, and some in the path.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use parking_lot::Mutex;

use super::destination::Destination;
use super::failure::Failure;
use crate::clock::{self, Nanos};
use crate::telemetry::labelled::{Ended, Kind, To};
use crate::telemetry::log::Log;
use crate::telemetry::rate_limit::Share;
use crate::telemetry::stats::Stats;

/// A guest may make up a longer name of a method.
const METHOD_BYTES_MAX: usize = 32;

/// Where records go.
pub(crate) struct Book {
    log: Log,
    stats: Arc<Stats>,
    /// `--log-outbound` was given.
    lines: bool,
    /// A guest can cause any number of lines: all together they are one that writes.
    share: Mutex<Share>,
}

impl Book {
    pub(crate) fn new(log: Log, stats: Arc<Stats>, lines: bool) -> Arc<Book> {
        Arc::new(Book { log, stats, lines, share: Mutex::default() })
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Something was refused that a guest wanted to do by this.
    pub(super) fn count_refused(&self, kind: &'static str) {
        self.stats.outbound_refused.count(Kind { kind });
    }

    /// A request of a guest, which this grants, begins.
    pub(super) fn request(self: &Arc<Self>, method: &Method, to: &Destination, granted: Arc<str>) -> Record {
        let mut name = method.as_str();
        name = &name[..name.len().min(METHOD_BYTES_MAX)];
        Record::new(self, Of::Request, granted, self.lines.then(|| format!("{name} {to}")))
    }

    /// A socket begins to connect to what this grants.
    pub(super) fn connection(self: &Arc<Self>, to: &Destination, granted: Arc<str>) -> Record {
        Record::new(self, Of::Connection, granted, self.lines.then(|| format!("connect {to}")))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Connection,
}

/// It is counted and written when it is dropped.
pub(crate) struct Record {
    book: Arc<Book>,
    of: Of,
    granted: Arc<str>,
    /// What was wanted. Kept only if there will be a line.
    wanted: Option<String>,
    begun: Nanos,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    state: Mutex<State>,
}

/// What has become of it up to now.
#[derive(Default)]
struct State {
    /// How long a connection took that was made for it.
    connecting: Option<Duration>,
    /// From its beginning to the head of the response.
    first_byte: Option<Duration>,
    status: Option<StatusCode>,
    end: End,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    /// The guest did not wait for it.
    #[default]
    Cancelled,
    Good,
    Failed(&'static str),
}

impl Record {
    fn new(book: &Arc<Book>, of: Of, granted: Arc<str>, wanted: Option<String>) -> Record {
        let [sent_bytes, received_bytes] = [0, 0].map(AtomicU64::new);
        let (book, begun, state) = (book.clone(), clock::now(), Mutex::default());
        Record { book, of, granted, wanted, begun, sent_bytes, received_bytes, state }
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(clock::now().saturating_sub(self.begun))
    }

    /// There was a connection to be made for it, which took so long.
    pub(super) fn note_connecting(&self, time: Option<Duration>) {
        self.state.lock().connecting = time;
    }

    /// A socket is connected.
    pub(crate) fn note_connected(&self) {
        let mut state = self.state.lock();
        (state.connecting, state.end) = (Some(self.time()), End::Good);
    }

    /// The head of the response is there.
    pub(super) fn note_status(&self, status: StatusCode) {
        let mut state = self.state.lock();
        (state.status, state.first_byte) = (Some(status), Some(self.time()));
    }

    pub(crate) fn note_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn note_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// The whole response has come. What broke off before has an end, too, for who asks on.
    pub(super) fn note_complete(&self) {
        let mut state = self.state.lock();
        if state.end == End::Cancelled {
            state.end = End::Good;
        }
    }

    pub(crate) fn note_failure(&self, failure: &Failure) {
        self.state.lock().end = End::Failed(failure.name());
    }

    fn outcome(&self, state: &State) -> &'static str {
        match (state.end, state.status) {
            (End::Failed(name), _) => name,
            // What a guest leaves of a response says nothing about the destination.
            (_, Some(status)) => class(status),
            (End::Good, None) => "connected",
            (End::Cancelled, None) => "cancelled",
        }
    }

    fn count(&self, state: &State, time: Duration) {
        let stats = &self.book.stats;
        let to = || To { destination: self.granted.clone() };
        let ended = Ended { destination: self.granted.clone(), outcome: self.outcome(state) };
        match self.of {
            Of::Request => {
                stats.outbound_requests.count(ended);
                stats.outbound_request_seconds.observe(to(), time);
            }
            Of::Connection => stats.outbound_connections.count(ended),
        }
        if let Some(time) = state.connecting {
            stats.outbound_connect_seconds.observe(to(), time);
        }
        if let Some(time) = state.first_byte {
            stats.outbound_first_byte_seconds.observe(to(), time);
        }
    }

    /// The line of the log, as that of a request of a client.
    fn line(&self, wanted: &str, state: &State, time: Duration) -> String {
        let mut line = String::with_capacity(160);
        let date = humantime::format_rfc3339_seconds(SystemTime::now());
        let _ = write!(line, "outbound - - [{date}] \"{wanted}\" ");
        let _ = match (self.of, state.status) {
            (Of::Connection, _) => write!(line, "-"),
            (Of::Request, status) => write!(line, "{:03}", status.map_or(0, |status| status.as_u16())),
        };
        let (sent, received) = (self.sent_bytes.load(Relaxed), self.received_bytes.load(Relaxed));
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let _ = write!(line, " {received} {:.3}ms sent={sent}", milliseconds(time));
        for (name, time) in [("connect", state.connecting), ("first-byte", state.first_byte)] {
            if let Some(time) = time {
                let _ = write!(line, " {name}={:.3}ms", milliseconds(time));
            }
        }
        match state.end {
            End::Good => {}
            End::Cancelled => line.push_str(" cancelled"),
            End::Failed(name) => _ = write!(line, " {name}"),
        }
        line.push('\n');
        line
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (time, state) = (self.time(), std::mem::take(self.state.get_mut()));
        self.count(&state, time);
        if let Some(wanted) = &self.wanted {
            let line = self.line(wanted, &state, time);
            self.book.log.line_of_guest(&mut self.book.share.lock(), line.as_bytes());
        }
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
