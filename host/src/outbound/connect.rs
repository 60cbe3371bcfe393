//! From a destination to a connection. The address that was checked is the one that is
//! connected to: no name is looked up twice.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::Outbound;
use super::destination::{Destination, Target};
use super::failure::Failure;
use super::progress::Progress;
use crate::memory::account::OnNoAccount;

/// Makes connections for the HTTP client.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Arc<Outbound>);

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let outbound = self.0.clone();
        // The request that it is made for; another one may get it.
        let progress = Progress::current();
        // Connections are the server's, whichever guest was the first to need one.
        let _until_end = OnNoAccount::begin();
        Box::pin(uncharged(async move {
            let (destination, is_tls) = destination(&uri)?;
            let time_max =
                progress.as_ref().map_or(outbound.limits.times.connect, |progress| progress.connect);
            let connected = outbound.connect(&destination, is_tls, Instant::now() + time_max).await;
            if let Some(progress) = progress {
                progress.connected();
            }
            connected
        }))
    }
}

/// A future that allocates on no guest's account.
async fn uncharged<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        let _until_end = OnNoAccount::begin();
        future.as_mut().poll(cx)
    })
    .await
}

/// Where a request goes, and whether by TLS.
pub(crate) fn destination(uri: &Uri) -> Result<(Destination, bool), Failure> {
    let authority = uri.authority().ok_or(Failure::Destination("the request has no authority"))?;
    if authority.as_str().contains('@') {
        return Err(Failure::Destination("the authority has a user"));
    }
    let is_tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(Failure::Destination("the scheme is none of HTTP's")),
    };
    let host = Target::parse(authority.host()).map_err(|_| Failure::Destination("the host is none"))?;
    let port = match &authority.as_str()[authority.host().len()..] {
        "" if is_tls => 443,
        "" => 80,
        text => text
            .strip_prefix(':')
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .unwrap_or(0),
    };
    if port == 0 {
        return Err(Failure::Destination("the port is none"));
    }
    let scheme = if is_tls { "https" } else { "http" };
    Ok((Destination { scheme: Some(scheme.to_owned()), host, port }, is_tls))
}

impl Outbound {
    async fn connect(
        &self,
        destination: &Destination,
        is_tls: bool,
        deadline: Instant,
    ) -> Result<Stream, Failure> {
        let found = timeout_at(deadline, self.addresses(destination)).await;
        let addresses = found.map_err(|_| Failure::LookupTimeout)??;
        let connected = timeout_at(deadline, async {
            let permit = self.left.connection()?;
            let stream = connect_to_one(&addresses, deadline).await?;
            // Small requests do not wait for more, and an upstream that takes nothing is given up.
            // Where the system has no such things, it goes on without.
            let _ = stream.set_nodelay(true);
            let time_max = u32::try_from(self.limits.times.between_bytes.as_millis()).unwrap_or(u32::MAX);
            let _ = set_tcp_user_timeout(&stream, time_max);
            let (io, is_http2): (Box<dyn Duplex>, bool) = match is_tls {
                true => self.handshake(destination, stream).await?,
                false => (Box::new(stream), false),
            };
            Ok(Stream { io: TokioIo::new(io), is_http2, _permit: permit })
        });
        connected.await.map_err(|_| Failure::ConnectTimeout)?
    }

    async fn handshake(
        &self,
        destination: &Destination,
        stream: TcpStream,
    ) -> Result<(Box<dyn Duplex>, bool), Failure> {
        let name = match &destination.host {
            Target::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| Failure::Destination("the host has no name for TLS"))?,
            Target::Address(address) => ServerName::from(*address),
        };
        let trust = self.trust.as_ref().ok_or(Failure::Denied)?;
        let connector = TlsConnector::from(trust.config(destination));
        let stream = connector.connect(name, stream).await.map_err(|error| Failure::Tls(error.into()))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), is_http2))
    }
}

/// The first of them that takes a connection. Each has its share of the time that is left.
async fn connect_to_one(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Failure> {
    let mut last = io::Error::other("there is no address");
    for (index, address) in addresses.iter().enumerate() {
        let (now, left) = (Instant::now(), (addresses.len() - index) as u32);
        let share = deadline.saturating_duration_since(now) / left;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) if left == 1 => return Err(Failure::ConnectTimeout),
            Err(_) => {}
        }
    }
    Err(Failure::Connect(last.into()))
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, with TLS or without.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Duplex>>,
    is_http2: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self.is_http2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
