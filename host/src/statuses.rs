//! What can go wrong with a request or a deferred call, and the one table from
//! it to a status, a log level and a metric. Nothing else chooses a status.

use http::{HeaderValue, Response, StatusCode, header};

use crate::connection::answer;
use crate::dispatch::NoCore;
use crate::memory::memories::NO_ADDRESSES;
use crate::terminal::escape;

/// The guest call was still under way at its deadline. The store raises it in a
/// guest that computes; a guest that waits is dropped instead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlinePassed;

impl std::fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for DeadlinePassed {}

/// The server would hold more for an instance than so many bytes. The store raises it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostMemoryExceeded(pub u64);

impl std::fmt::Display for HostMemoryExceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server would hold more than {} bytes for it (--host-memory-limit)", self.0)
    }
}

impl std::error::Error for HostMemoryExceeded {}

/// All instances together have no room for more. The store raises it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRoom;

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no room in --memory-total")
    }
}

impl std::error::Error for NoRoom {}

/// Why a call has no result of the guest's own.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The head of the request breaks a rule of HTTP, which is named.
    BadRequest(&'static str),
    /// The head has more fields than `--head-fields`.
    HeadTooLarge,
    /// The request's body is longer than `--body-limit`.
    BodyTooLarge,
    /// The client sent nothing of the body for `--body-timeout`.
    BodyTimeout,
    /// No core became free.
    NoCore(NoCore),
    /// All instances together have no room for this one, or for what it wants to have.
    NoRoom,
    /// The call took longer than its deadline.
    Deadline,
    /// No instance could be made.
    Instantiation(wasmtime::Error),
    /// The guest trapped, or broke the rules of the component model.
    Trap(wasmtime::Error),
    /// The guest ended without a response.
    NoResponse,
    /// The program ended with this status, which is not 0.
    ExitStatus(i32),
    /// The guest answered with an error code of `wasi:http`.
    GuestError(String),
    /// The callback of a deferred call returned an error.
    CallbackError(String),
}

/// Every name that `Failure::metric` gives.
pub(crate) const METRICS: [&str; 14] = [
    "bad_request",
    "head_too_large",
    "body_too_large",
    "body_timeout",
    "queue_full",
    "queue_timeout",
    "no_room",
    "deadline",
    "instantiation",
    "trap",
    "no_response",
    "exit_status",
    "guest_error",
    "callback_error",
];

/// How loud a failure is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Counted only: any client can cause it at will.
    Silent,
    /// A line in the log.
    Line,
}

struct Row {
    status: StatusCode,
    level: Level,
    /// The value of the label `reason` in `wasm_serve_failures_total`.
    metric: &'static str,
}

impl Failure {
    /// What made the guest's code end early: a trap, or the deadline.
    #[cold]
    pub(crate) fn from_trap(error: wasmtime::Error) -> Failure {
        if error.is::<DeadlinePassed>() {
            Failure::Deadline
        } else if error.is::<NoRoom>() {
            Failure::NoRoom
        } else {
            Failure::Trap(error)
        }
    }

    /// Why there is no instance.
    #[cold]
    pub(crate) fn from_instantiation(error: wasmtime::Error) -> Failure {
        match Failure::from_trap(error) {
            Failure::Trap(error) if is_for_want_of_memory(&error) => Failure::NoRoom,
            Failure::Trap(error) => Failure::Instantiation(error),
            failure => failure,
        }
    }

    fn row(&self) -> Row {
        let row = |status, level, metric| Row { status, level, metric };
        match self {
            Failure::BadRequest(_) => row(StatusCode::BAD_REQUEST, Level::Silent, "bad_request"),
            Failure::HeadTooLarge => {
                row(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Level::Silent, "head_too_large")
            }
            Failure::BodyTooLarge => row(StatusCode::PAYLOAD_TOO_LARGE, Level::Silent, "body_too_large"),
            Failure::BodyTimeout => row(StatusCode::REQUEST_TIMEOUT, Level::Silent, "body_timeout"),
            Failure::NoCore(NoCore::QueueFull) => {
                row(StatusCode::SERVICE_UNAVAILABLE, Level::Silent, "queue_full")
            }
            Failure::NoCore(NoCore::WaitedTooLong) => {
                row(StatusCode::SERVICE_UNAVAILABLE, Level::Silent, "queue_timeout")
            }
            Failure::NoRoom => row(StatusCode::SERVICE_UNAVAILABLE, Level::Line, "no_room"),
            Failure::Deadline => row(StatusCode::GATEWAY_TIMEOUT, Level::Line, "deadline"),
            Failure::Instantiation(_) => row(StatusCode::INTERNAL_SERVER_ERROR, Level::Line, "instantiation"),
            Failure::Trap(_) => row(StatusCode::INTERNAL_SERVER_ERROR, Level::Line, "trap"),
            Failure::NoResponse => row(StatusCode::INTERNAL_SERVER_ERROR, Level::Line, "no_response"),
            Failure::ExitStatus(_) => row(StatusCode::INTERNAL_SERVER_ERROR, Level::Line, "exit_status"),
            Failure::GuestError(_) => row(StatusCode::INTERNAL_SERVER_ERROR, Level::Line, "guest_error"),
            Failure::CallbackError(_) => {
                row(StatusCode::INTERNAL_SERVER_ERROR, Level::Line, "callback_error")
            }
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.row().status
    }

    pub(crate) fn level(&self) -> Level {
        self.row().level
    }

    pub(crate) fn metric(&self) -> &'static str {
        self.row().metric
    }

    /// The response to a request that failed before the head of one was sent.
    #[cold]
    pub(crate) fn response<B: From<String>>(&self) -> Response<B> {
        let status = self.status();
        let text = match self {
            // Only this one concerns what the client sent; how a guest failed is
            // for the log.
            Failure::BadRequest(rule) => format!("{status}: {rule}\n"),
            _ => format!("{status}\n"),
        };
        let mut response = answer::text(status, "text/plain", text);
        let headers = response.headers_mut();
        match self {
            Failure::NoCore(_) | Failure::NoRoom => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // What is left of such a request would be read as the next one.
            Failure::BadRequest(_) | Failure::BodyTooLarge | Failure::BodyTimeout => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::BadRequest(rule) => write!(f, "bad request: {rule}"),
            Failure::HeadTooLarge => f.write_str("the request has too many fields (--head-fields)"),
            Failure::BodyTooLarge => f.write_str("the request's body is too large"),
            Failure::BodyTimeout => f.write_str("the request's body did not come in time"),
            Failure::NoCore(NoCore::QueueFull) => f.write_str("the queue for a core is full"),
            Failure::NoCore(NoCore::WaitedTooLong) => f.write_str("no core became free in time"),
            Failure::NoRoom => {
                f.write_str("there is no room in the memory of all instances (--memory-total, or ulimit -v)")
            }
            Failure::Deadline => f.write_str("the guest took too long and was stopped"),
            // A backtrace of the guest is a part of the chain of causes; one of the
            // host, which `{:?}` would add, is of no use here.
            Failure::Instantiation(error) => write!(f, "no instance of the guest could be made: {error:#}"),
            Failure::Trap(error) => write!(f, "the guest trapped: {error:#}"),
            Failure::NoResponse => f.write_str("the guest ended without a response"),
            Failure::ExitStatus(status) => write!(f, "the program ended with status {status}"),
            Failure::GuestError(code) => write!(f, "the guest answered with an error: {}", quote(code)),
            Failure::CallbackError(message) => {
                write!(f, "the callback returned an error: {}", quote(message))
            }
        }
    }
}

/// The system has no memory, or no addresses for it.
fn is_for_want_of_memory(error: &wasmtime::Error) -> bool {
    let is_out_of_memory = |error: &std::io::Error| error.kind() == std::io::ErrorKind::OutOfMemory;
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(is_out_of_memory) || cause.to_string().starts_with(NO_ADDRESSES)
    })
}

/// What a guest says, in one line of bounded length. Nothing in it acts on a terminal.
fn quote(text: &str) -> String {
    const CHARACTERS_MAX: usize = 1000;
    let end = text.char_indices().nth(CHARACTERS_MAX).map_or(text.len(), |(at, _)| at);
    escape::text(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_says_when_to_come_back_and_says_nothing_in_the_log() {
        for reason in [NoCore::QueueFull, NoCore::WaitedTooLong] {
            let failure = Failure::NoCore(reason);
            let response = failure.response::<String>();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
            assert_eq!(failure.level(), Level::Silent);
        }
    }

    #[test]
    fn a_trap_at_the_deadline_is_a_deadline() {
        assert_eq!(Failure::from_trap(wasmtime::Error::new(DeadlinePassed)).status(), 504);
        assert_eq!(Failure::from_trap(wasmtime::Trap::UnreachableCodeReached.into()).status(), 500);
    }

    #[test]
    fn a_guest_cannot_forge_lines_of_the_log_nor_fill_it() {
        let said = format!("no\n2026-01-01T00:00:00Z forged\u{1b}[2J\u{202e}\u{2028}{}", "x".repeat(1 << 20));
        for failure in [Failure::CallbackError(said.clone()), Failure::GuestError(said)] {
            let line = failure.to_string();
            let is_unsafe = |c: char| c.is_control() || ['\u{202e}', '\u{2028}'].contains(&c);
            assert!(!line.contains(is_unsafe), "{line:?}");
            assert!(line.len() < 4096);
        }
    }

    #[test]
    fn what_can_be_read_stays_as_it_is() {
        let said = "No such file: 'a\\b' \"c\" \u{e9} n\u{303} \u{915}\u{93f}";
        assert!(Failure::CallbackError(said.into()).to_string().ends_with(said));
    }

    #[test]
    fn a_client_is_not_told_how_the_guest_failed() {
        let response = Failure::GuestError("secret".into()).response::<String>();
        assert_eq!(response.into_body(), "500 Internal Server Error\n");
    }
}
