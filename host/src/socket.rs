//! The bytes of one connection, TCP or Unix, on their way to and from the HTTP
//! library. What passes is noted in the connection's `Activity`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::activity::Activity;

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
pub struct Socket {
    stream: Stream,
    /// What was read to tell HTTP/1 from HTTP/2.
    first_bytes: Bytes,
    activity: Arc<Activity>,
    is_shut_down: bool,
    /// What is still read after that.
    linger_bytes: usize,
}

impl Socket {
    pub fn new(
        stream: Stream,
        first_bytes: Bytes,
        activity: Arc<Activity>,
        linger_bytes_max: usize,
    ) -> Socket {
        Socket { stream, first_bytes, activity, is_shut_down: false, linger_bytes: linger_bytes_max }
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
        let mut is_sending = self.activity.is_sending();
        while self.linger_bytes > 0 {
            let mut buffer = ReadBuf::uninit(&mut scrap);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => is_sending = true,
                Poll::Ready(_) => break,
                Poll::Pending if !is_sending => break,
                Poll::Pending => {
                    self.activity.lingers();
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
        if !self.first_bytes.is_empty() {
            let count = self.first_bytes.len().min(cursor.remaining());
            cursor.put_slice(&self.first_bytes[..count]);
            self.first_bytes.advance(count);
            if self.first_bytes.is_empty() {
                // An empty rest would keep its memory for as long as the connection.
                self.first_bytes = Bytes::new();
            }
            return Poll::Ready(Ok(()));
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
        if count == 0 && self.activity.keeps_end(cx) {
            return Poll::Pending;
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

    /// The end of what is sent, and then of the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            ready!(self.poll_shut_down(cx))?;
            self.is_shut_down = true;
        }
        self.poll_linger(cx).map(Ok)
    }
}
