//! The bytes of one connection, TCP or Unix, with what the HTTP library does not
//! watch: since when a head is coming, since when the client takes nothing, and
//! whether a client that stopped sending still listens.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

use crate::clock::{self, Nanos};

/// How often it is looked whether a client that stopped sending is still there.
const GONE_CHECK: Duration = Duration::from_millis(100);

/// What happens on one connection, told between its socket, its requests and
/// the task that watches it. 0 stands for «no such time».
#[derive(Debug)]
pub struct Activity {
    /// Requests whose response is not complete.
    requests: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    /// The one request of an HTTP/1 connection has come in whole.
    request_is_whole: AtomicBool,
    /// Bytes of its response have left.
    response_has_begun: AtomicBool,
    /// Its client knows interim responses (HTTP/1.1).
    takes_interim: AtomicBool,
    end_of_input: Mutex<EndOfInput>,
}

/// The client of an HTTP/1 connection sends no more: was its request whole? The
/// socket cannot tell, and the HTTP library does not say; but if whoever reads
/// the body still finds nothing to read after the end was seen, it was not.
#[derive(Debug, Default)]
struct EndOfInput {
    is_seen: bool,
    body_is_cut_short: bool,
    /// The task that reads the socket.
    socket: Option<Waker>,
    /// The task that waits for more of the body.
    body: Option<Waker>,
}

/// The time that a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub idle: Duration,
    pub head: Duration,
    pub write: Duration,
}

impl Activity {
    pub fn new() -> Arc<Activity> {
        Arc::new(Activity {
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(clock::now()),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            request_is_whole: AtomicBool::new(false),
            response_has_begun: AtomicBool::new(false),
            takes_interim: AtomicBool::new(false),
            end_of_input: Mutex::default(),
        })
    }

    /// Notes that a head was read; the guard stands for its request. It must be
    /// known at once whether a body follows: the next read may meet the end.
    pub fn begin(self: &Arc<Self>, has_body: bool, takes_interim: bool) -> InFlight {
        self.head_since.store(0, Relaxed);
        self.request_is_whole.store(!has_body, Relaxed);
        self.response_has_begun.store(false, Relaxed);
        self.takes_interim.store(takes_interim, Relaxed);
        *self.end_of_input.lock() = EndOfInput::default();
        self.requests.fetch_add(1, Relaxed);
        InFlight(self.clone())
    }

    /// The body of the request has come in whole.
    pub fn request_is_whole(&self) {
        self.request_is_whole.store(true, Relaxed);
    }

    /// Whoever reads the body of the request finds nothing to read yet.
    pub fn body_waits(&self, cx: &Context<'_>) {
        let mut end = self.end_of_input.lock();
        end.body = Some(cx.waker().clone());
        if end.is_seen {
            end.body_is_cut_short = true;
            if let Some(socket) = end.socket.take() {
                socket.wake();
            }
        }
    }

    /// The socket has met the end of what the client sends. True if it is known
    /// that the request is not whole; if that is found later, the task is woken.
    fn request_is_cut_short(&self, cx: &Context<'_>) -> bool {
        if self.request_is_whole.load(Relaxed) {
            return false;
        }
        let mut end = self.end_of_input.lock();
        end.socket = Some(cx.waker().clone());
        end.is_seen = true;
        if let Some(body) = end.body.take() {
            // It looks once more, knowing that this was the end.
            body.wake();
        }
        end.body_is_cut_short
    }

    /// No request is under way, and none is coming in.
    pub fn is_idle(&self) -> bool {
        self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0
    }

    /// When the client will have taken too long, as things stand.
    pub fn deadline(&self, patience: &Patience) -> Nanos {
        let end = |since: Nanos, time: Duration| since.saturating_add(time.as_nanos() as Nanos);
        let blocked_since = self.blocked_since.load(Relaxed);
        let write = if blocked_since == 0 { Nanos::MAX } else { end(blocked_since, patience.write) };
        if self.requests.load(Relaxed) > 0 {
            return write;
        }
        let head_since = self.head_since.load(Relaxed);
        let read = if head_since == 0 {
            end(self.idle_since.load(Relaxed), patience.idle)
        } else {
            end(head_since, patience.head)
        };
        write.min(read)
    }

    fn note_read(&self) {
        if self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(clock::now(), Relaxed);
        }
    }

    fn note_write<T>(&self, write: &Poll<T>) {
        if write.is_ready() {
            self.blocked_since.store(0, Relaxed);
            self.response_has_begun.store(true, Relaxed);
        } else if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(clock::now(), Relaxed);
        }
    }

    fn has_request(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// Bytes may be sent ahead of the response without disturbing it.
    fn may_probe(&self) -> bool {
        self.takes_interim.load(Relaxed)
            && !self.response_has_begun.load(Relaxed)
            && self.blocked_since.load(Relaxed) == 0
    }
}

/// One request of a connection, from its head until its response is complete.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Relaxed) == 1 {
            self.0.idle_since.store(clock::now(), Relaxed);
        }
    }
}

/// A connection as the listener gives it.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Both directions are closed, or broken.
    fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&at_once)) {
            Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
            Err(_) => false,
        }
    }
}

/// A connection as the HTTP library takes it.
pub struct Socket {
    stream: Stream,
    /// What was read to tell HTTP/1 from HTTP/2.
    first_bytes: Bytes,
    activity: Arc<Activity>,
    is_http1: bool,
    /// Set when the client has stopped sending while it waits for a response.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// It was sent what makes a client that is gone known.
    is_probed: bool,
}

impl Socket {
    pub fn new(stream: Stream, first_bytes: Bytes, activity: Arc<Activity>, is_http1: bool) -> Socket {
        activity.note_read();
        Socket { stream, first_bytes, activity, is_http1, half_closed: None, is_probed: false }
    }

    /// The client sends no more. If it waits for a response, the end is kept from
    /// the HTTP library, which would take it for a client that is gone; instead
    /// it is looked from time to time whether it is.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_waiting = self.is_http1 && self.activity.has_request();
        if !is_waiting || self.activity.request_is_cut_short(cx) {
            return Poll::Ready(Ok(()));
        }
        // Most responses are there before it is worth looking.
        loop {
            let check = self.half_closed.get_or_insert_with(|| Box::pin(tokio::time::sleep(GONE_CHECK)));
            ready!(check.as_mut().poll(cx));
            self.half_closed = Some(Box::pin(tokio::time::sleep(GONE_CHECK)));
            if !self.is_probed {
                self.is_probed = self.probe()?;
            }
            if self.stream.is_gone() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }

    /// TCP does not tell a client that only stopped sending from one that is
    /// gone, until one sends it something: the kernel of the latter answers with
    /// a reset. An interim response may be sent at any time before the final one
    /// (RFC 9110, 15.2), and this one clients discard if they did not ask for it.
    ///
    /// True if that is done, or of no use here.
    fn probe(&self) -> io::Result<bool> {
        const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        if matches!(self.stream, Stream::Unix(_)) || !self.activity.may_probe() {
            return Ok(true);
        }
        match self.stream.try_write(INTERIM) {
            Ok(written) if written == INTERIM.len() => Ok(true),
            // Nothing else was on its way: there is no room for 25 bytes only in
            // a connection that is as good as gone.
            Ok(_) => Err(io::ErrorKind::ConnectionReset.into()),
            // The runtime does not know yet that a new socket can be written.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first_bytes.is_empty() {
            let count = self.first_bytes.len().min(cursor.remaining());
            cursor.put_slice(&self.first_bytes[..count]);
            self.first_bytes.advance(count);
            return Poll::Ready(Ok(()));
        }
        if self.half_closed.is_some() {
            return self.poll_half_closed(cx);
        }
        // SAFETY: nothing uninitialised is read or exposed, and `count` bytes
        // were initialised by the read.
        let count = unsafe {
            let free: &mut [MaybeUninit<u8>] = cursor.as_mut();
            let mut buffer = ReadBuf::uninit(free);
            ready!(self.stream.poll_read(cx, &mut buffer))?;
            let count = buffer.filled().len();
            cursor.advance(count);
            count
        };
        if count == 0 {
            return self.poll_half_closed(cx);
        }
        self.activity.note_read();
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.activity.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.activity.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
