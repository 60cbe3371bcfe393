//! The body of a request, on its way to an upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};

use super::BoxError;
use super::failure::Failure;
use super::permits::Permits;
use super::record::Record;

/// Whether the call that sends it was cut off. What it has sent is then no whole body, though
/// nobody says so: it ends like any other.
#[derive(Clone, Default)]
pub(crate) struct Cut(Arc<AtomicBool>);

impl Cut {
    pub(crate) fn set(&self) {
        self.0.store(true, Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What a request has from its beginning until its response and its body have ended. Either may
/// be the first.
pub(super) struct UnderWay {
    pub record: Record,
    pub _permits: Permits,
}

pub(crate) struct Sent<B> {
    body: B,
    cut: Cut,
    request: Arc<UnderWay>,
}

impl<B> Sent<B> {
    pub(super) fn new(body: B, cut: Cut, request: Arc<UnderWay>) -> Sent<B> {
        Sent { body, cut, request }
    }
}

impl<B: Body + Unpin> Body for Sent<B>
where
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.request.record.note_sent(data.remaining());
        }
        Poll::Ready(match frame {
            None if self.cut.is_set() => Some(Err(Failure::Cut.into())),
            frame => frame.map(|frame| frame.map_err(Into::into)),
        })
    }

    fn is_end_stream(&self) -> bool {
        !self.cut.is_set() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
