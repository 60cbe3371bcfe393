//! The body of a request on its way to the guest: not longer than it may be, and
//! not slower.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

use crate::connection::activity::Activity;
use crate::error::Failure;
use crate::sandbox::transfer::Link;

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes_max: u64,
    /// Time between two pieces that the guest waits for.
    pub wait_max: Duration,
}

const NOT_WHOLE: &str = "the body is malformed or was cut short (RFC 9112, 7 and 8)";

/// How a body broke a limit or was broken, if it was: the guest sees an error, and if it gives
/// no answer of its own, the client is told this reason.
#[derive(Clone, Default)]
pub struct Verdict(Arc<AtomicU8>);

const TOO_LARGE: u8 = 1;
const TOO_SLOW: u8 = 2;
const BROKEN: u8 = 3;

impl Verdict {
    pub fn failure(&self) -> Option<Failure> {
        match self.0.load(Ordering::Relaxed) {
            TOO_LARGE => Some(Failure::BodyTooLarge),
            TOO_SLOW => Some(Failure::BodyTimeout),
            BROKEN => Some(Failure::BadRequest(NOT_WHOLE)),
            _ => None,
        }
    }

    /// The body was malformed, or ended early.
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BROKEN
    }
}

/// The body of a request under its limits.
pub struct RequestBody {
    body: Incoming,
    is_http2: bool,
    limits: Limits,
    bytes: u64,
    /// Set while the guest waits.
    waiting: Option<Pin<Box<Sleep>>>,
    verdict: Verdict,
    activity: Arc<Activity>,
    /// Which request of its connection it belongs to.
    number: u64,
    is_over: bool,
    link: Arc<Link>,
}

impl RequestBody {
    pub fn new(
        body: Incoming,
        is_http2: bool,
        limits: Limits,
        verdict: Verdict,
        activity: Arc<Activity>,
        number: u64,
        link: Arc<Link>,
    ) -> RequestBody {
        let (bytes, waiting, is_over) = (0, None, false);
        RequestBody { body, is_http2, limits, bytes, waiting, verdict, activity, number, is_over, link }
    }

    fn fail(&self, verdict: u8, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.verdict.0.store(verdict, Ordering::Relaxed);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.link.note_request_is_read();
        self.activity.note_body_is_read(self.number);
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let wait_max = self.limits.wait_max;
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + wait_max)));
            return match waiting.as_mut().poll(cx) {
                Poll::Ready(()) => self.fail(TOO_SLOW, Error::ConnectionReadTimeout),
                Poll::Pending => Poll::Pending,
            };
        };
        self.waiting = None;
        match frame {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.bytes > self.limits.bytes_max {
                    return self.fail(TOO_LARGE, Error::HttpRequestBodySize(Some(self.limits.bytes_max)));
                }
                self.is_over = self.body.is_end_stream();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.fail(BROKEN, Error::Hyper(error)),
            // The HTTP library takes a stream of HTTP/2 that was reset without an error for
            // one that ended.
            None if self.is_http2 && !self.body.is_end_stream() => {
                self.fail(BROKEN, Error::HttpRequestBodySize(None))
            }
            None => {
                self.is_over = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.is_over {
            self.activity.note_body_is_left(self.number);
        }
    }
}
