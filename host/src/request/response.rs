//! The body of a response, on its way from the guest to the HTTP library.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::access_log::{End, Record};
use super::unsent::{Held, Unsent};
use crate::clock;
use crate::connection::exchange::Exchange;
use crate::sandbox::deadline::Deadline;
use crate::sandbox::transfer::Link;

/// The transfer of a body broke: the client must not take it for complete.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the guest ended before the response's body was complete")
    }
}

impl std::error::Error for Broken {}

/// The body of a response, as the HTTP library takes it.
pub(crate) struct ResponseBody {
    /// Frames that were there before the head was sent.
    ready: VecDeque<Frame<Bytes>>,
    rest: Rest,
    /// What is missing to the length that the head promised.
    bytes_missing: Option<u64>,
    record: Option<Record>,
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
    Guest(Source),
}

/// Where the frames come from that a guest is still writing.
pub(super) struct Source {
    pub(super) body: Arc<Unsent>,
    pub(super) link: Arc<Link>,
    pub(super) deadline: Arc<Deadline>,
    /// The response breaks off if its request turns out to be malformed.
    pub(super) exchange: Exchange,
}

impl ResponseBody {
    /// A body that is complete. `length` is what the head says: the HTTP library takes it for
    /// granted, and a client would take the next response for what is missing.
    pub(crate) fn complete(frames: VecDeque<Frame<Bytes>>, length: Option<u64>) -> ResponseBody {
        let bytes: u64 = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        match length {
            Some(length) if length != bytes => ResponseBody::broken(frames, Some(length)),
            _ => ResponseBody::new(frames, Rest::Nothing, length),
        }
    }

    /// A body that breaks off after `frames`.
    pub(super) fn broken(frames: VecDeque<Frame<Bytes>>, length: Option<u64>) -> ResponseBody {
        ResponseBody::new(frames, Rest::Broken { was_seen: false }, length)
    }

    /// A body whose guest is still writing it.
    pub(super) fn streaming(
        frames: VecDeque<Frame<Bytes>>,
        source: Source,
        length: Option<u64>,
    ) -> ResponseBody {
        ResponseBody::new(frames, Rest::Guest(source), length)
    }

    fn new(ready: VecDeque<Frame<Bytes>>, rest: Rest, bytes_missing: Option<u64>) -> ResponseBody {
        ResponseBody { ready, rest, bytes_missing, record: None, _held: None }
    }

    /// Gives the record of the request, which is written when this body is over.
    pub(super) fn set_record(&mut self, record: Record) {
        self.record = Some(record);
    }

    pub(super) fn set_held(&mut self, held: Option<Held>) {
        self._held = held;
    }

    /// Counts a frame. False if it is more than the head promised.
    fn count(&mut self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(missing) = &mut self.bytes_missing {
            let Some(still_missing) = missing.checked_sub(bytes) else { return false };
            *missing = still_missing;
        }
        if let Some(record) = &mut self.record {
            record.note_bytes(bytes);
        }
        true
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.rest {
            Rest::Nothing => Poll::Ready(None),
            Rest::Broken { was_seen: true } => Poll::Ready(Some(Err(Broken))),
            Rest::Broken { was_seen } => {
                *was_seen = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Rest::Guest(source) if source.exchange.fault().is_some() => self.break_off(cx),
            // A body that its guest passed on has nobody else to stop it.
            Rest::Guest(Source { link, deadline, .. })
                if link.is_passed_on() && deadline.nanos() <= clock::now() =>
            {
                self.break_off(cx)
            }
            Rest::Guest(Source { body, link, .. }) => {
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
        if let Rest::Guest(Source { link, .. }) = &self.rest {
            match end {
                End::Complete => link.complete_body(),
                End::Broken | End::Cancelled => link.abandon_body(),
            }
        }
        if let Some(record) = &mut self.record {
            record.note_end(end);
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
            Rest::Guest(_) => all_sent && self.bytes_missing == Some(0),
        };
        self.note_end(if complete { End::Complete } else { End::Cancelled });
    }
}

impl From<String> for ResponseBody {
    fn from(text: String) -> ResponseBody {
        ResponseBody::complete(VecDeque::from([Frame::data(Bytes::from(text))]), None)
    }
}
