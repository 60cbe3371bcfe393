//! The bytes of one connection, TCP or Unix, on their way to and from the HTTP
//! library. What passes is noted in the connection's `Activity`, and what is malformed does
//! not pass.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::activity::Activity;
use super::fault::Fault;
use super::frames::Frames;
use super::framing::Framing;

/// What is read at once of what nobody wants.
const LINGER_PIECE_BYTES: usize = 16 << 10;

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

    /// The descriptor, for `peer::look`.
    pub fn fd(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// A connection as the HTTP library takes it.
pub(super) struct Socket {
    stream: Stream,
    /// What was read to tell HTTP/1 from HTTP/2.
    first_bytes: Bytes,
    activity: Arc<Activity>,
    course: Course,
    is_shut_down: bool,
    /// What is still read after that.
    linger_bytes: usize,
}

/// Where in what the client sends the connection is.
enum Course {
    Http1(Framing),
    Http2(Frames),
    /// Behind something malformed, of which nothing is shown.
    Malformed,
}

impl Socket {
    pub(super) fn new(
        stream: Stream,
        first_bytes: Bytes,
        is_http2: bool,
        activity: Arc<Activity>,
        linger_bytes_max: usize,
    ) -> Socket {
        let course =
            if is_http2 { Course::Http2(Frames::default()) } else { Course::Http1(Framing::default()) };
        let linger_bytes = linger_bytes_max;
        Socket { stream, first_bytes, activity, course, is_shut_down: false, linger_bytes }
    }

    /// Looks at what came in. Gives how much of it the HTTP library may see; an error if
    /// that is nothing.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.course {
            Course::Http1(framing) => {
                let was_within_body = framing.is_within_body();
                let fault = framing.follow(bytes);
                // What only goes on with a body is no beginning of a head.
                if !was_within_body || framing.is_within_head() {
                    self.activity.note_read();
                }
                if let Some((at, fault)) = fault {
                    self.activity.note_fault(framing.heads(), fault);
                    self.course = Course::Malformed;
                    return if at == 0 { Err(malformed()) } else { Ok(at) };
                }
                let incomplete = if framing.is_within_body() { framing.heads() } else { 0 };
                self.activity.note_incomplete(incomplete);
            }
            Course::Http2(frames) => self.activity.note_frames(frames.follow(bytes)),
            Course::Malformed => return Err(malformed()),
        }
        Ok(bytes.len())
    }

    /// The client sends no more. True if that is to be kept from the HTTP library.
    fn keeps_end(&mut self, cx: &Context<'_>) -> bool {
        if let Course::Http1(framing) = &self.course
            && framing.is_within_body()
        {
            self.activity.note_fault(framing.heads(), Fault::CutShort);
            return false;
        }
        self.activity.keeps_end(cx)
    }

    /// The client has not sent all that it was about to send, as far as one can tell.
    fn is_sending(&self) -> bool {
        match &self.course {
            Course::Http1(framing) => !framing.is_between() || self.activity.lingers(),
            Course::Http2(_) | Course::Malformed => true,
        }
    }

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Reads on, and keeps nothing, until the client sends no more. To close before would
    /// be to reset: the system does that when there is something unread, or comes later,
    /// and the client's side then throws away what it has not yet read of the response
    /// (RFC 9112, 9.6). How long that may take is the deadline's affair.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [MaybeUninit::uninit(); LINGER_PIECE_BYTES];
        let mut is_sending = self.is_sending();
        while self.linger_bytes > 0 {
            let mut buffer = ReadBuf::uninit(&mut scrap);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => is_sending = true,
                Poll::Ready(_) => break,
                Poll::Pending if !is_sending => break,
                Poll::Pending => {
                    self.activity.begin_to_linger();
                    return Poll::Pending;
                }
            }
            self.linger_bytes = self.linger_bytes.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(())
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &mut *self;
        if matches!(socket.course, Course::Malformed) {
            return Poll::Ready(Err(malformed()));
        }
        if !socket.first_bytes.is_empty() {
            let count = socket.first_bytes.len().min(cursor.remaining());
            let bytes = socket.first_bytes.split_to(count);
            if socket.first_bytes.is_empty() {
                // An empty rest would keep its memory for as long as the connection.
                socket.first_bytes = Bytes::new();
            }
            let count = socket.follow(&bytes)?;
            cursor.put_slice(&bytes[..count]);
            return Poll::Ready(Ok(()));
        }
        // SAFETY: nothing uninitialised is read or exposed, and at least `count` bytes
        // were initialised by the read.
        unsafe {
            let free: &mut [MaybeUninit<u8>] = cursor.as_mut();
            let mut buffer = ReadBuf::uninit(free);
            ready!(socket.stream.poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return if socket.keeps_end(cx) { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let count = socket.follow(bytes)?;
            cursor.advance(count);
        }
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

    /// The end of what is sent, and then of the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            ready!(self.poll_shut_down(cx))?;
            self.is_shut_down = true;
        }
        self.poll_linger(cx).map(Ok)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the request is malformed")
}
