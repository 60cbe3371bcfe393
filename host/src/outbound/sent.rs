//! The body of a request, on its way to an upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
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
    /// What has been taken of the body to see whether there is one.
    first: Option<First>,
}

/// None if the body has ended.
type First = Option<Result<Frame<Bytes>, Failure>>;

impl<B: Body<Data = Bytes> + Unpin> Sent<B> {
    pub(super) fn new(body: B, cut: Cut, request: Arc<UnderWay>) -> Sent<B> {
        Sent { body, cut, request, first: None }
    }

    /// Waits for the first piece, or for the end.
    pub(super) async fn has_more(&mut self) -> bool {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
        self.first.insert(frame.map(whole)).is_some()
    }
}

fn whole<E>(frame: Result<Frame<Bytes>, E>) -> Result<Frame<Bytes>, Failure> {
    frame.map_err(|_| Failure::BrokenBody)
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sent<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.first.take() {
            Some(first) => first,
            None => ready!(Pin::new(&mut self.body).poll_frame(cx)).map(whole),
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.request.record.note_sent(data.len());
        }
        Poll::Ready(match frame {
            None if self.cut.is_set() => Some(Err(Failure::Cut.into())),
            frame => frame.map(|frame| frame.map_err(Into::into)),
        })
    }

    fn is_end_stream(&self) -> bool {
        let is_end = match &self.first {
            Some(first) => first.is_none(),
            None => self.body.is_end_stream(),
        };
        !self.cut.is_set() && is_end
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            Some(None) => SizeHint::with_exact(0),
            Some(Some(_)) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}
