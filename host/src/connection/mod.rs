//! One connection: HTTP/1 or HTTP/2 by prior knowledge, its requests, and the
//! time that its client may take.

pub(crate) mod activity;
pub(crate) mod address;
pub(crate) mod answer;
mod chunks;
pub(crate) mod client;
pub(crate) mod exchange;
pub(crate) mod fault;
mod frames;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod listen;
mod peer;
mod socket;

use std::convert::Infallible;
use std::os::fd::RawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::ReadBuf;
use tokio::sync::watch;
use tokio::time::Sleep;

use self::activity::{Activity, Patience};
use self::answer::Answer;
use self::client::ClientAddress;
use self::exchange::{Exchange, InFlight};
use self::frames::PREFACE;
use self::peer::Peer;
use self::socket::{Socket, Stream};
use crate::clock::{self, Nanos};

/// What a connection of HTTP/1 may read before it is wanted, and write before it is taken; the
/// library begins with 8 KiB.
const BUFFER_BYTES: usize = 400 << 10;
/// HTTP/2 streams of one connection that are open at once.
const STREAMS_MAX: u32 = 200;
/// Bytes of responses that one HTTP/2 stream buffers.
const STREAM_SEND_BYTES_MAX: usize = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub head_bytes_max: usize,
    pub head_fields_max: usize,
    /// Bytes that are read after the last response.
    pub linger_bytes_max: usize,
    pub patience: Patience,
}

/// Who sends a request, and on which connection.
pub(crate) struct Client {
    address: ClientAddress,
    exchange: Exchange,
}

impl Client {
    /// See `ClientAddress::sign`.
    pub(crate) fn sign<B>(&self, request: &mut Request<B>) -> HeaderValue {
        self.address.sign(request)
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(crate) fn into_exchange(self) -> Exchange {
        self.exchange
    }
}

/// Serves a connection until it is closed: by the client, by one of the limits,
/// or, once `stopping` is true, when no request is under way.
pub(crate) async fn serve<F, R, B>(
    mut stream: Stream,
    address: ClientAddress,
    limits: Limits,
    stopping: watch::Receiver<bool>,
    respond: F,
) where
    F: Fn(Request<Incoming>, Client) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let mut stop = stopping.clone();
    let first = tokio::select! {
        first = first_bytes(&mut stream, &limits) => first,
        _ = stop.wait_for(|stopping| *stopping) => return,
    };
    let Some((first, since)) = first else { return };
    begin(stream, first, since, address, limits, stopping, respond).await;
}

/// The connection once it is known which HTTP it speaks. It is boxed, so that the
/// task has neither the size of HTTP/2 nor that of what led here: most connections
/// are idle most of the time.
fn begin<F, R, B>(
    stream: Stream,
    first: Bytes,
    since: Nanos,
    address: ClientAddress,
    limits: Limits,
    stopping: watch::Receiver<bool>,
    respond: F,
) -> Pin<Box<dyn Future<Output = ()> + Send>>
where
    F: Fn(Request<Incoming>, Client) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let is_http2 = first.starts_with(PREFACE);
    let activity = Activity::new(!is_http2, since);
    let fd = stream.fd();
    let socket = Socket::new(stream, first, is_http2, activity.clone(), limits.linger_bytes_max);
    let exchanges = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let in_flight = InFlight::begin(&exchanges, request.version() == Version::HTTP_11);
        let has_body = !request.body().is_end_stream();
        let is_chunked = has_body && request.headers().contains_key(header::TRANSFER_ENCODING);
        let client = Client { address: address.clone(), exchange: in_flight.exchange() };
        // Boxed: the HTTP library keeps the room for this future as long as the
        // connection.
        let response = Box::pin(respond(request, client));
        async move {
            let mut response = response.await;
            if has_body && in_flight.leaves_body(is_chunked) {
                // A proxy that is not told may send its next request into the close.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, in_flight)))
        }
    });
    let watch = Watch { activity, patience: limits.patience, stopping, fd, is_probed: false };
    if is_http2 {
        Box::pin(watch.serve(Box::pin(http2(&limits).serve_connection(socket, service))))
    } else {
        Box::pin(watch.serve(Box::pin(http1(&limits).serve_connection(socket, service))))
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // Our own watch has the time, without a timer for each request.
    http1.header_read_timeout(None).max_header_size(limits.head_bytes_max);
    http1.max_buf_size(limits.head_bytes_max.max(BUFFER_BYTES));
    if limits.head_fields_max != 100 {
        // Other than hyper's own number, it costs an allocation a request.
        http1.max_headers(limits.head_fields_max);
    }
    http1
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .max_header_list_size(limits.head_bytes_max as u32);
    http2
}

/// Reads until it is known whether the client speaks HTTP/2. Gives what was read,
/// and when the first byte came; none if the client left or took too long.
async fn first_bytes(stream: &mut Stream, limits: &Limits) -> Option<(Bytes, Nanos)> {
    let mut bytes = BytesMut::with_capacity(4096);
    let mut until = clock::after(limits.patience.idle);
    let mut since = None;
    loop {
        let read = std::future::poll_fn(|cx| poll_read(stream, &mut bytes, cx));
        let count = tokio::time::timeout_at(clock::instant(until), read).await.ok()?.ok()?;
        if count == 0 {
            return None;
        }
        let since = *since.get_or_insert_with(|| {
            until = clock::after(limits.patience.head);
            clock::now()
        });
        let length = bytes.len().min(PREFACE.len());
        if length == PREFACE.len() || bytes[..length] != PREFACE[..length] {
            return Some((bytes.freeze(), since));
        }
    }
}

fn poll_read(
    stream: &mut Stream,
    bytes: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<usize>> {
    let mut buffer = ReadBuf::uninit(bytes.spare_capacity_mut());
    std::task::ready!(stream.poll_read(cx, &mut buffer))?;
    let count = buffer.filled().len();
    // SAFETY: the read initialised `count` bytes behind the length.
    unsafe { bytes.set_len(bytes.len() + count) };
    Poll::Ready(Ok(count))
}

/// How often it is looked whether the client of a request is still there.
const LOOK: Duration = Duration::from_secs(1);
/// The same, once it is known to send no more.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// When the server stops, a client has this long to take its leave.
const FAREWELL: Duration = Duration::from_secs(5);

/// Looks after a connection beside the HTTP library.
struct Watch {
    activity: Arc<Activity>,
    patience: Patience,
    stopping: watch::Receiver<bool>,
    /// The socket, which the HTTP library owns. It is open as long as the
    /// connection is not dropped.
    fd: RawFd,
    is_probed: bool,
}

impl Watch {
    /// Serves until the connection ends, one way or another. Errors are the
    /// client's affair: it sees them.
    async fn serve<C: GracefulConnection>(mut self, mut connection: Pin<Box<C>>) {
        let mut stop = pin!({
            let mut stopping = self.stopping.clone();
            async move {
                let _ = stopping.wait_for(|stopping| *stopping).await;
            }
        });
        let mut is_stopping = false;
        let mut armed: Nanos = self.activity.deadline(&self.patience);
        let mut alarm = pin!(tokio::time::sleep_until(clock::instant(armed)));
        std::future::poll_fn(|cx| {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !is_stopping && stop.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                self.patience.idle = self.patience.idle.min(FAREWELL);
                self.patience.linger = self.patience.linger.min(FAREWELL);
                connection.as_mut().graceful_shutdown();
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
            }
            if is_stopping && self.activity.is_http1() && self.activity.is_idle() {
                return Poll::Ready(());
            }
            self.poll_alarm(alarm.as_mut(), &mut armed, cx)
        })
        .await;
    }

    /// Ready when the client has left or taken too long. The alarm is set anew
    /// only when it must ring earlier, or when it has rung: not at each request.
    fn poll_alarm(
        &mut self,
        mut alarm: Pin<&mut Sleep>,
        armed: &mut Nanos,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut look_next = LOOK;
        loop {
            let deadline = self.activity.deadline(&self.patience);
            let rings_at =
                if self.activity.has_request() { deadline.min(clock::after(look_next)) } else { deadline };
            if rings_at < *armed {
                *armed = rings_at;
                alarm.as_mut().reset(clock::instant(rings_at));
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if deadline <= clock::now() {
                return Poll::Ready(());
            }
            if self.activity.has_request() {
                match self.look() {
                    Peer::Gone => return Poll::Ready(()),
                    Peer::SendsNoMore => look_next = LOOK_AGAIN,
                    Peer::Present => {}
                }
            }
            *armed = Nanos::MAX;
        }
    }

    /// Looks whether the client is there. To one that sends no more, something is
    /// sent, once, where that is possible without disturbing the response.
    fn look(&mut self) -> Peer {
        // SAFETY: the connection, and with it the socket, outlives this watch.
        let peer = unsafe { peer::look(self.fd) };
        if peer == Peer::SendsNoMore && !self.is_probed && self.activity.may_probe() {
            self.is_probed = true;
            // SAFETY: the same.
            return unsafe { peer::probe(self.fd) };
        }
        peer
    }
}
