//! What is known of one request once it is over: a line in the log, and counts.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};

use crate::clock::{self, Nanos};
use crate::statuses::{Failure, Level};
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;
use crate::terminal::escape::Target;

/// Where records go.
pub(crate) struct Book {
    log: Log,
    stats: Arc<Stats>,
    /// `--disable-logging` was not given.
    lines: bool,
}

impl Book {
    /// `lines` says whether each request gets one.
    pub(crate) fn new(log: Log, stats: Arc<Stats>, lines: bool) -> Book {
        Book { log, stats, lines }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Counts a failure, and says it in the log if `error` wants that.
    #[cold]
    pub(super) fn report(&self, failure: &Failure, of: &dyn Display, core: Option<u32>) {
        self.stats.count_failure(failure.metric());
        if failure.level() == Level::Line {
            match core {
                Some(core) => self.log.server(format_args!("{of} on core {core}: {failure}")),
                None => self.log.server(format_args!("{of}: {failure}")),
            }
        }
    }
}

/// How the log names a request in a line that is not its own.
#[derive(Clone)]
pub(crate) struct RequestName {
    method: Method,
    uri: Uri,
}

impl RequestName {
    pub(crate) fn new<B>(request: &Request<B>) -> RequestName {
        RequestName { method: request.method().clone(), uri: request.uri().clone() }
    }
}

impl Display for RequestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, Target(self.uri.path()))
    }
}

/// One request. It is written when it is dropped: with the response's body, or
/// with the request if that was cancelled.
pub(super) struct Record {
    book: Arc<Book>,
    started: Nanos,
    /// Kept only if there will be a line.
    request: Option<(Method, Uri, Version)>,
    client: HeaderValue,
    /// Set with the head of the response.
    status: Option<StatusCode>,
    core: Option<u32>,
    body_bytes: u64,
    end: End,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The whole response was handed over.
    Complete,
    /// The guest did not give the whole response.
    Broken,
    /// The client left before.
    Cancelled,
}

impl Record {
    pub(super) fn new<B>(book: Arc<Book>, request: &Request<B>, client: HeaderValue) -> Record {
        let line = book.lines.then(|| (request.method().clone(), request.uri().clone(), request.version()));
        let started = clock::now();
        Record {
            book,
            started,
            request: line,
            client,
            status: None,
            core: None,
            body_bytes: 0,
            end: End::Cancelled,
        }
    }

    pub(super) fn note_core(&mut self, core: u32) {
        self.core = Some(core);
    }

    /// The core that the request got, if it got one.
    pub(super) fn core(&self) -> Option<u32> {
        self.core
    }

    /// The head of the response is there.
    pub(super) fn note_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// So much of the response's body was handed over.
    pub(super) fn note_bytes(&mut self, bytes: u64) {
        self.body_bytes += bytes;
    }

    pub(super) fn note_end(&mut self, end: End) {
        self.end = end;
    }

    /// The line of the log, in the manner of the Common Log Format: client, time,
    /// request, status, bytes of the body, then what took how long and where.
    fn line(&self, (method, uri, version): &(Method, Uri, Version), time: Duration) -> String {
        let mut line = String::with_capacity(128);
        let client = self.client.to_str().unwrap_or("-");
        let date = humantime::format_rfc3339_seconds(SystemTime::now());
        let status = self.status.map_or(0, |status| status.as_u16());
        let _ = write!(line, "{client} - - [{date}] \"{method} {} {version:?}\" ", Target(path(uri)));
        let _ = write!(line, "{status:03} {} {:.3}ms", self.body_bytes, time.as_secs_f64() * 1e3);
        if let Some(core) = self.core {
            let _ = write!(line, " core={core}");
        }
        line.push_str(match self.end {
            End::Complete => "\n",
            End::Broken => " broken\n",
            End::Cancelled => " cancelled\n",
        });
        line
    }
}

fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

impl Drop for Record {
    fn drop(&mut self) {
        let time = Duration::from_nanos(clock::now().saturating_sub(self.started));
        if let Some(status) = self.status {
            self.book.stats.count_request(status, time);
        }
        match self.end {
            End::Complete => {}
            End::Broken => _ = self.book.stats.broken.inc(),
            End::Cancelled => _ = self.book.stats.cancelled.inc(),
        }
        if let Some(request) = &self.request {
            self.book.log.line(self.line(request, time).as_bytes());
        }
    }
}
