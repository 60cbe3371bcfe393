//! Requests over HTTP to what is granted. Connections are kept, for each worker and origin.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, timeout, timeout_at};

use super::connect::{Connector, destination};
use super::failure::Failure;
use super::progress::Progress;
use super::sent::{Cut, Sent, UnderWay};
use super::{Outbound, Times};

/// How long a connection that nobody uses is kept.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// And so many to one origin.
const IDLE_MAX: usize = 32;
/// The head of a response.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// And its fields.
const FIELDS_MAX: usize = 1000;
/// Of the name of a coding, so much is told.
const CODING_CHARS_MAX: usize = 64;
/// What an upstream may send over one stream of HTTP/2 before the guest takes it.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// And over all streams of one connection: as 64 do.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How often a connection of HTTP/2 with requests under way is tried, and how long for.
const PING_TIME: Duration = Duration::from_secs(20);

/// The client of one worker, for bodies of this kind.
pub(crate) struct HttpClient<B> {
    client: legacy::Client<Connector, Sent<B>>,
    outbound: Arc<Outbound>,
}

impl<B> HttpClient<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    pub(crate) fn new(outbound: Arc<Outbound>) -> HttpClient<B> {
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http1_max_headers(FIELDS_MAX)
            .http2_max_header_list_size(HEAD_BYTES_MAX as u32)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_send_buf_size(STREAM_WINDOW_BYTES as usize)
            .http2_keep_alive_interval(PING_TIME)
            .http2_keep_alive_timeout(PING_TIME)
            .build(Connector(outbound.clone()));
        HttpClient { client, outbound }
    }

    /// Sends a request of an instance that may have `of_one` more under way. Who asks may wait for
    /// less time than the limits say, not for more. If its call is `cut`, so is its body.
    pub(crate) fn send(
        &self,
        request: Request<B>,
        times: Times,
        of_one: &Arc<Semaphore>,
        cut: Cut,
    ) -> impl Future<Output = Result<Response<Received>, Failure>> + Send + use<B> {
        let begun = self.begin(&request, of_one);
        let times = times.within(self.outbound.limits.times);
        let client = self.client.clone();
        async move {
            let under_way = begun?;
            let request = request.map(|body| Sent::new(body, cut, under_way.clone()));
            let progress = Progress::new(times.connect);
            let responded = match timeout(times.first_byte, with_framing(request)).await {
                Ok(request) => {
                    let responding = progress.clone().of(client.request(request));
                    first_byte(pin!(responding), &progress, times.first_byte).await
                }
                Err(_) => Err(Failure::FirstByteTimeout),
            };
            under_way.record.note_connecting(progress.time());
            match responded {
                Ok(response) => {
                    under_way.record.note_status(response.status());
                    Ok(response.map(|incoming| Received::new(incoming, times.between_bytes, under_way)))
                }
                Err(failure) => {
                    under_way.record.note_failure(&failure);
                    Err(failure)
                }
            }
        }
    }

    fn begin(&self, request: &Request<B>, of_one: &Arc<Semaphore>) -> Result<Arc<UnderWay>, Failure> {
        if request.method() == Method::CONNECT {
            return Err(Failure::Destination("a tunnel is not granted"));
        }
        let (destination, _) = destination(request.uri())?;
        let granted = self.outbound.check(&destination)?;
        let record = self.outbound.book.request(request.method(), &destination, granted);
        match self.outbound.left.request(of_one) {
            Ok(permits) => Ok(Arc::new(UnderWay { record, _permits: permits })),
            Err(failure) => {
                record.note_failure(&failure);
                Err(failure)
            }
        }
    }
}

/// With these methods the library sends no body, unless the head says that there is one. A body
/// that a guest begins and leaves empty is none, though, and servers do not expect one.
async fn with_framing<B: Body<Data = Bytes> + Unpin>(mut request: Request<Sent<B>>) -> Request<Sent<B>> {
    let is_bare = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_open = request.body().size_hint().exact().is_none();
    let has_length = request.headers().contains_key(header::CONTENT_LENGTH);
    if is_bare && is_open && !has_length && request.body_mut().has_more().await {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

async fn first_byte(
    mut responding: Pin<&mut impl Future<Output = Result<Response<Incoming>, legacy::Error>>>,
    progress: &Progress,
    time_max: Duration,
) -> Result<Response<Incoming>, Failure> {
    let mut deadline = Instant::now() + time_max;
    let response = loop {
        match timeout_at(deadline, responding.as_mut()).await {
            Ok(response) => break response.map_err(|error| Failure::of(&error).before_head())?,
            // The time counts from when there is a connection.
            Err(_) => deadline = progress.later(time_max).ok_or(Failure::FirstByteTimeout)?,
        }
    };
    check(&response)?;
    Ok(response)
}

/// What HTTP demands of a head and the library lets pass.
fn check(response: &Response<Incoming>) -> Result<(), Failure> {
    // Some come in large pieces.
    if head_bytes(response.headers()) > HEAD_BYTES_MAX {
        return Err(Failure::HeadTooLarge);
    }
    if response.status().is_informational() {
        return Err(Failure::Protocol("it switches to another protocol".to_owned()));
    }
    let mut codings = response.headers().get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            match response.headers().contains_key(header::CONTENT_LENGTH) {
                // Another reader could see another end (RFC 9112, 6.3).
                true => Err(Failure::Protocol("it has a length and chunks".to_owned())),
                false => Ok(()),
            }
        }
        // The guest would take what is coded for the content.
        (Some(coding), _) => {
            let coding = String::from_utf8_lossy(coding.as_bytes());
            Err(Failure::TransferCoding(coding.chars().take(CODING_CHARS_MAX).collect()))
        }
    }
}

fn head_bytes(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

impl Times {
    fn within(self, most: Times) -> Times {
        Times {
            connect: self.connect.min(most.connect),
            first_byte: self.first_byte.min(most.first_byte),
            between_bytes: self.between_bytes.min(most.between_bytes),
        }
    }
}

/// The body of a response.
pub(crate) struct Received {
    incoming: Incoming,
    time_max: Duration,
    /// Set while something is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    request: Arc<UnderWay>,
}

impl Received {
    fn new(incoming: Incoming, time_max: Duration, request: Arc<UnderWay>) -> Received {
        if incoming.is_end_stream() {
            request.record.note_complete();
        }
        Received { incoming, time_max, timer: None, request }
    }

    fn note(&self, frame: &Option<Result<Frame<Bytes>, Failure>>) {
        let record = &self.request.record;
        match frame {
            Some(Ok(frame)) => {
                record.note_received(frame.data_ref().map_or(0, Bytes::len));
                // Whoever knows its length asks for no more.
                if self.incoming.is_end_stream() {
                    record.note_complete();
                }
            }
            Some(Err(failure)) => record.note_failure(failure),
            None => record.note_complete(),
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.timer = None;
            let frame = frame.map(|frame| frame.map_err(|error| Failure::of(&error)));
            self.note(&frame);
            return Poll::Ready(frame);
        }
        let time_max = self.time_max;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max)));
        ready!(timer.as_mut().poll(cx));
        let late = Some(Err(Failure::BetweenBytesTimeout));
        self.note(&late);
        Poll::Ready(late)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
