//! The body of a response as the HTTP library takes it, whatever it is made of: the connection
//! learns of each frame that leaves, and when there are no more.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use super::exchange::InFlight;

/// The body of the response to a request that is in flight until this is dropped. The body is
/// declared first, since fields are dropped in this order.
pub(super) struct Answer<B> {
    body: B,
    in_flight: InFlight,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, in_flight: InFlight) -> Answer<B> {
        Answer { body, in_flight }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = frame {
            self.in_flight.note_progress();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response that the server gives itself: a text of this media type.
pub(crate) fn text<B: From<String>>(
    status: StatusCode,
    media_type: &'static str,
    text: String,
) -> Response<B> {
    let mut response = Response::new(B::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
