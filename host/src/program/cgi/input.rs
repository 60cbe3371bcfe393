//! A program's standard input: the body of a request, or a payload.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_http::WasiBody;

/// Clones read from the same place.
#[derive(Clone)]
pub(super) struct Input(Arc<Mutex<Source>>);

struct Source {
    /// What the program has not read yet.
    ready: Bytes,
    /// What follows.
    rest: Option<WasiBody>,
    failure: Option<wasmtime_wasi_http::Error>,
}

impl Input {
    pub(super) fn body(body: WasiBody) -> Input {
        let rest = Some(body).filter(|body| !body.is_end_stream());
        Input(Arc::new(Mutex::new(Source { ready: Bytes::new(), rest, failure: None })))
    }

    pub(super) fn bytes(bytes: Bytes) -> Input {
        Input(Arc::new(Mutex::new(Source { ready: bytes, rest: None, failure: None })))
    }
}

impl Source {
    /// Waits until there is something to read, if only the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ready.is_empty()
            && let Some(body) = &mut self.rest
        {
            match ready!(Pin::new(body).poll_frame(cx)) {
                // Trailers have no place in CGI.
                Some(Ok(frame)) => self.ready = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => (self.rest, self.failure) = (None, Some(error)),
                None => self.rest = None,
            }
        }
        Poll::Ready(())
    }

    /// What is there, up to so many bytes; none at the end.
    fn take(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        if let Some(failure) = self.failure.take() {
            return Err(io::Error::other(failure));
        }
        let is_over = self.ready.is_empty() && self.rest.is_none();
        let bytes = self.ready.len().min(bytes_max);
        Ok((!is_over).then(|| self.ready.split_to(bytes)))
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

/// For WASI 0.1 and 0.2.
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.0.lock().take(size) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(StreamError::Closed),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.0.lock().poll(cx)).await;
    }
}

/// For WASI 0.3.
impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut source = self.0.lock();
        ready!(source.poll(cx));
        let read = source.take(into.remaining())?;
        into.put_slice(&read.unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}
