//! The body of a request on its way to the guest: not longer than it may be, and
//! not slower.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

use crate::connection::exchange::Exchange;
use crate::memory::account::OnNoAccount;
use crate::sandbox::transfer::{Link, Verdict};
use crate::statuses::Failure;

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes_max: u64,
    /// Time between two pieces that the guest waits for.
    pub wait_max: Duration,
}

/// So much of a body that its guest has left is read after it, so that the connection can be
/// used again.
const REST_BYTES_MAX: u64 = 256 << 10;

const NOT_WHOLE: &str = "the body is malformed or was cut short (RFC 9112, 7 and 8)";

/// What the client is told of a body with this verdict.
pub(crate) fn failure(verdict: Verdict) -> Failure {
    match verdict {
        Verdict::TooLarge => Failure::BodyTooLarge,
        Verdict::TooSlow => Failure::BodyTimeout,
        Verdict::Broken => Failure::BadRequest(NOT_WHOLE),
    }
}

/// The body of a request under its limits.
pub(crate) struct RequestBody {
    /// None once it is dropped.
    body: Option<Incoming>,
    is_http2: bool,
    /// The client sends it when it is told to.
    is_awaited: bool,
    limits: Limits,
    bytes: u64,
    /// Set while the guest waits.
    waiting: Option<Pin<Box<Sleep>>>,
    exchange: Exchange,
    is_over: bool,
    link: Arc<Link>,
}

impl RequestBody {
    pub(crate) fn new(
        body: Incoming,
        is_http2: bool,
        is_awaited: bool,
        limits: Limits,
        exchange: Exchange,
        link: Arc<Link>,
    ) -> RequestBody {
        exchange.note_body_is_wanted();
        let (body, bytes, waiting, is_over) = (Some(body), 0, None, false);
        RequestBody { body, is_http2, is_awaited, limits, bytes, waiting, exchange, is_over, link }
    }

    fn fail(&self, verdict: Verdict, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.link.judge_request(verdict);
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
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        let is_end_stream = body.is_end_stream();
        let Poll::Ready(frame) = frame else {
            let wait_max = self.limits.wait_max;
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + wait_max)));
            return match waiting.as_mut().poll(cx) {
                Poll::Ready(()) => self.fail(Verdict::TooSlow, Error::ConnectionReadTimeout),
                Poll::Pending => Poll::Pending,
            };
        };
        self.waiting = None;
        match frame {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.bytes > self.limits.bytes_max {
                    return self
                        .fail(Verdict::TooLarge, Error::HttpRequestBodySize(Some(self.limits.bytes_max)));
                }
                self.is_over = is_end_stream;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.fail(Verdict::Broken, Error::Hyper(error)),
            // The HTTP library takes a stream of HTTP/2 that was reset without an error for
            // one that ended.
            None if self.is_http2 && !is_end_stream => {
                self.fail(Verdict::Broken, Error::HttpRequestBodySize(None))
            }
            None => {
                self.is_over = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    /// The guest has read it, or never will. By HTTP/2, what is left of it is the HTTP library's
    /// affair; by HTTP/1, it stands before the next request.
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        if self.is_over || self.is_http2 || body.is_end_stream() {
            return;
        }
        let length = body.size_hint().exact();
        let is_whole = !self.exchange.is_incomplete();
        if is_whole && length.is_some() {
            // The HTTP library throws it away by itself.
            return;
        }
        let is_little = is_whole || length.is_some_and(|length| length <= REST_BYTES_MAX);
        let is_worth_it = is_little || self.exchange.is_answered();
        // Where there is no runtime, the server is about to end.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if is_worth_it && !self.is_awaited && self.link.verdict().is_none() => {
                let _for_the_server = OnNoAccount::begin();
                runtime.spawn(throw_away(body));
            }
            _ => self.exchange.note_body_is_left(),
        }
    }
}

/// Reads what nobody wants, as long as it is not too much. How long the client may take for it
/// is its connection's affair, and with the connection this ends.
async fn throw_away(mut body: Incoming) {
    let mut bytes = 0;
    while bytes <= REST_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}
