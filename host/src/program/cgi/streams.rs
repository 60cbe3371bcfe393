//! Standard output as the versions of WASI have it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::futures::OwnedNotified;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::output::{Closed, Output};

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Writer { output: self.clone(), waiting: None })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

/// For WASI 0.1 and 0.2.
#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let room = self.check_write()?;
        if bytes.len() > room {
            return Err(StreamError::trap("writes more than `check-write` allows"));
        }
        Output::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.room().map_err(|Closed| StreamError::Closed)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        while matches!(self.room(), Ok(0)) {
            self.more_room().notified().await;
        }
    }
}

/// For WASI 0.3.
struct Writer {
    output: Output,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(room) = &mut self.waiting {
                ready!(room.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.output.room() {
                Err(Closed) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Ok(0) => self.waiting = Some(Box::pin(self.output.more_room().clone().notified_owned())),
                Ok(room) => {
                    let bytes = &bytes[..bytes.len().min(room)];
                    self.output.write(bytes);
                    return Poll::Ready(Ok(bytes.len()));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
