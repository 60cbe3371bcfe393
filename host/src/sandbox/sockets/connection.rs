//! The bytes of one connection: what a guest reads, and what it writes. A piece that the system
//! does not take at once is sent by a task of its own, since the guest may go on to read; before
//! it is sent the guest can write no more.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio::time::timeout;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use crate::outbound::record::Record;
use crate::sandbox::files::places::Place;

/// What is read or written at once, at most.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// How long a guest that closes a connection waits for what it wrote.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(5);

/// It is closed when nothing holds it any more, and then its place is free.
struct Connection {
    stream: TcpStream,
    is_read_shut: AtomicBool,
    /// A piece is on its way to the system.
    has_unsent: AtomicBool,
    record: Record,
    _place: Place,
}

/// What was not sent in the end shows: the peer sees a connection that breaks, and none that ends.
/// The system need not keep for it what it did take.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.has_unsent.load(Relaxed) {
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}

impl Connection {
    fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(bytes).inspect(|count| self.record.note_received(*count))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes).inspect(|count| self.record.note_sent(*count))
    }

    fn shut(&self, how: Shutdown) {
        // The peer may have ended it before.
        let _ = shutdown(&self.stream, how);
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.has_unsent.store(false, Relaxed);
        Ok(())
    }
}

/// What a socket keeps of its connection.
pub(crate) struct Connected {
    connection: Arc<Connection>,
    sending: Arc<Mutex<Sending>>,
    /// Until they are taken.
    pub(super) receiver: Option<Receiver>,
    pub(super) sender: Option<Sender>,
}

impl Connected {
    pub(super) fn new(stream: TcpStream, place: Place, record: Record) -> Connected {
        let [is_read_shut, has_unsent] = [false, false].map(AtomicBool::new);
        let connection = Arc::new(Connection { stream, is_read_shut, has_unsent, record, _place: place });
        let sending = Arc::new(Mutex::new(Sending::Open(connection.clone())));
        let (receiver, sender) = (Some(Receiver(connection.clone())), Some(Sender(sending.clone())));
        Connected { connection, sending, receiver, sender }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.connection.stream.local_addr()
    }

    pub(super) fn remote_address(&self) -> io::Result<SocketAddr> {
        self.connection.stream.peer_addr()
    }

    pub(super) fn shut_receiving(&self) {
        self.connection.is_read_shut.store(true, Relaxed);
        self.connection.shut(Shutdown::Read);
    }

    pub(super) fn shut_sending(&self) {
        self.sending.lock().shut();
    }
}

/// What a guest reads.
pub(crate) struct Receiver(Arc<Connection>);

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.shut(Shutdown::Read);
    }
}

impl Receiver {
    /// As WASI 0.3 reads. Nothing is left where this gives 0 bytes.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.0.try_read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.stream.poll_read_ready(cx))?;
                }
                read => return Poll::Ready(read),
            }
        }
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.stream.poll_read_ready(cx).map(|_| ())
    }
}

impl InputStream for Receiver {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.0.is_read_shut.load(Relaxed) {
            return Err(StreamError::Closed);
        }
        let mut bytes = BytesMut::zeroed(size.min(PIECE_BYTES_MAX));
        let count = match self.0.try_read(&mut bytes) {
            Ok(0) if size > 0 => return Err(StreamError::Closed),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(StreamError::LastOperationFailed(error.into())),
        };
        bytes.truncate(count);
        Ok(bytes.freeze())
    }
}

#[async_trait]
impl Pollable for Receiver {
    async fn ready(&mut self) {
        if !self.0.is_read_shut.load(Relaxed) {
            // Not only `readable`, which is so too after a read that took all there was. What is
            // wrong shows when it is read.
            let _ = self.0.stream.peek(&mut [0]).await;
        }
    }
}

enum Sending {
    Open(Arc<Connection>),
    /// The rest of a piece is being sent.
    UnderWay(AbortOnDropJoinHandle<io::Result<Arc<Connection>>>),
    /// The same, and after it comes nothing.
    Ending(AbortOnDropJoinHandle<()>),
    /// With the system's number of the error, if it was one.
    Ended(Option<i32>),
}

impl Sending {
    /// Ready when the last piece is sent. tokio would now and then say that it is not, so that
    /// others run; a guest that was told that it can write takes this for the truth.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Sending::UnderWay(under_way) = self {
            *self = match ready!(pin!(unconstrained(under_way)).poll(cx)) {
                Ok(connection) => Sending::Open(connection),
                Err(error) => Sending::failed(&error),
            };
        }
        Poll::Ready(())
    }

    /// Ready if another piece may be written, or never more.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_sent(cx));
        match self {
            // What is wrong shows when it is written.
            Sending::Open(connection) => connection.stream.poll_write_ready(cx).map(|_| ()),
            _ => Poll::Ready(()),
        }
    }

    /// What may be written now.
    fn room(&mut self) -> StreamResult<usize> {
        if self.poll_sent(&mut Context::from_waker(Waker::noop())).is_pending() {
            return Ok(0);
        }
        match self {
            Sending::Open(connection) => match connection.stream.try_io(Interest::WRITABLE, || Ok(())) {
                Ok(()) => Ok(PIECE_BYTES_MAX),
                Err(_) => Ok(0),
            },
            ended => Err(ended.error()),
        }
    }

    /// What the guest is told of the end.
    fn error(&self) -> StreamError {
        match self {
            Sending::Ended(Some(number)) => {
                StreamError::LastOperationFailed(io::Error::from_raw_os_error(*number).into())
            }
            _ => StreamError::Closed,
        }
    }

    fn failed(error: &io::Error) -> Sending {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Sending::Ended(None),
            _ => Sending::Ended(error.raw_os_error()),
        }
    }

    /// What was written is sent, and then the peer is told that it was all.
    fn shut(&mut self) {
        *self = match std::mem::replace(self, Sending::Ended(None)) {
            Sending::Open(connection) => {
                connection.shut(Shutdown::Write);
                Sending::Ended(None)
            }
            Sending::UnderWay(under_way) => Sending::Ending(spawn(async move {
                if let Ok(connection) = under_way.await {
                    connection.shut(Shutdown::Write);
                }
            })),
            ended => ended,
        };
    }
}

/// What a guest writes.
pub(crate) struct Sender(Arc<Mutex<Sending>>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().shut();
    }
}

impl Sender {
    /// As WASI 0.3 writes: what is not taken is the guest's still.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Sending::Open(connection) = &*self.0.lock() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        loop {
            match connection.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.stream.poll_write_ready(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.lock().poll_ready(cx)
    }
}

#[async_trait]
impl OutputStream for Sender {
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        let mut sending = self.0.lock();
        let connection = match &*sending {
            Sending::Open(connection) => connection.clone(),
            Sending::UnderWay(_) => return Err(StreamError::trap("writes before `check-write` allows it")),
            ended => return Err(ended.error()),
        };
        if bytes.len() > PIECE_BYTES_MAX {
            return Err(StreamError::trap("writes more than `check-write` allows"));
        }
        while !bytes.is_empty() {
            match connection.try_write(&bytes) {
                Ok(count) => drop(bytes.split_to(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.has_unsent.store(true, Relaxed);
                    *sending = Sending::UnderWay(spawn(async move {
                        connection.write_all(&bytes).await.map(|()| connection)
                    }));
                    break;
                }
                Err(error) => {
                    *sending = Sending::failed(&error);
                    return Err(sending.error());
                }
            }
        }
        Ok(())
    }

    /// What was written is on its way.
    fn flush(&mut self) -> StreamResult<()> {
        self.check_write().map(|_| ())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.lock().room()
    }

    /// What the guest believes to have written is sent before its stream is gone. A peer that
    /// takes nothing cannot keep it, though: its time is over, as often as not.
    async fn cancel(&mut self) {
        let sent = std::future::poll_fn(|cx| match &mut *self.0.lock() {
            Sending::Ending(ending) => Pin::new(ending).poll(cx),
            sending => sending.poll_sent(cx),
        });
        let _ = timeout(CLOSING_TIME_MAX, sent).await;
    }
}

#[async_trait]
impl Pollable for Sender {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.0.lock().poll_ready(cx)).await;
    }
}
