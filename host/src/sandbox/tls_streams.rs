//! TLS over the streams of guests, as `wasi:tls` has it. wasmtime's part of it moves the bytes; who
//! is believed, and how long a handshake may take, is the server's affair. What a connection needs
//! is on the account of its instance, though tasks of its own move the bytes.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_tls::{Error, TlsProvider, TlsStream, TlsTransport};

use super::host::Host;
use crate::memory::account::Account;
use crate::outbound::Checks;
use crate::outbound::failure::Failure;
use crate::outbound::tls::Asked;
use crate::telemetry::labelled::Outcome;

/// The client's side, for one instance.
pub(super) struct Client {
    pub server: Arc<Host>,
    pub account: Account,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn TlsStream>, Error>> + Send>>;

impl TlsProvider for Client {
    fn connect(&self, server_name: String, transport: Box<dyn TlsTransport>) -> Connecting {
        let begun = self.begin(server_name);
        let (server, account) = (self.server.clone(), self.account.clone());
        Box::pin(async move {
            let (connector, name) = begun.map_err(Error::msg)?;
            let time_max = server.outbound.limits().times.connect;
            let handshake = pin!(timeout(time_max, connector.connect(name, transport)));
            let connected = match account.charge(handshake).await {
                Ok(connected) => connected.map_err(|error| Failure::Tls(error.into())),
                Err(_) => Err(Failure::ConnectTimeout),
            };
            let outcome = connected.as_ref().map_or_else(Failure::name, |_| "done");
            server.stats.outbound_tls.count(Outcome { outcome });
            match connected {
                Ok(stream) => Ok(Box::new(Stream { stream, account, taken: 0 }) as Box<dyn TlsStream>),
                Err(failure) => Err(Error::msg(failure)),
            }
        })
    }
}

impl Client {
    /// The error says what is wrong.
    fn begin(&self, name: String) -> Result<(TlsConnector, ServerName<'static>), String> {
        let trust = self.server.outbound.trust();
        let trust = trust.ok_or("nothing is granted to the guest by --allow-outbound")?;
        let name = ServerName::try_from(name).map_err(|_| "it is no name or address of a server")?;
        let config = trust.config_for(Asked {
            checks: Checks::Name,
            with_system: true,
            authorities: "",
            identity: "",
            protocols: Vec::new(),
            versions: &[&TLS13, &TLS12],
        })?;
        Ok((TlsConnector::from(Arc::new(config)), name))
    }
}

/// A connection after its handshake.
struct Stream {
    stream: tokio_rustls::client::TlsStream<Box<dyn TlsTransport>>,
    account: Account,
    /// Bytes that TLS has taken, and of which the guest is not told yet.
    taken: usize,
}

impl TlsStream for Stream {}

impl Stream {
    fn charged<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(
            Pin<&mut tokio_rustls::client::TlsStream<Box<dyn TlsTransport>>>,
            &mut Context<'_>,
        ) -> Poll<T>,
    ) -> Poll<T> {
        let Stream { stream, account, .. } = self;
        let work = pin!(std::future::poll_fn(|cx| poll(Pin::new(&mut *stream), cx)));
        pin!(account.charge(work)).poll(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.charged(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            self.taken = ready!(self.charged(cx, |stream, cx| stream.poll_write(cx, bytes)))?;
        }
        // What TLS holds back leaves when it is flushed, and by 0.3 nobody does that: so a piece is
        // written when it is on its way. Who gives up in between begins with the same bytes again.
        ready!(self.as_mut().poll_flush(cx))?;
        let told = self.taken.min(bytes.len());
        self.taken -= told;
        Poll::Ready(Ok(told))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.charged(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.charged(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
