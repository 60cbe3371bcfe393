//! Listening and accepting. Nothing else accepts; no handshake and no guest runs
//! here, and no error of one client ends it.

use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Address, Mode};
use super::socket::Stream;
use crate::telemetry::log::Log;

/// How long accepting pauses when the system has no more to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a server listens, and how.
#[derive(Clone, Debug)]
pub struct Sockets {
    pub http: Address,
    pub stats: Option<Address>,
    /// Connections that the system holds until they are accepted.
    pub backlog: u32,
    /// The permissions of Unix sockets.
    pub mode: Option<Mode>,
}

impl Sockets {
    /// That another server has an address is told before a guest is built, which can take
    /// long. Nothing is held while it is: a client shall be refused rather than wait for that.
    pub fn check(&self) -> Result<()> {
        // Held until the second is bound: it may be the same.
        let _http = Bound::one(&self.http, self.backlog, self.mode).context("--http-socket")?;
        self.bind_stats().map(drop)
    }

    /// A socket for each of `count` threads.
    pub fn bind_http(&self, count: usize) -> Result<Vec<Bound>> {
        Bound::many(&self.http, self.backlog, self.mode, count).context("--http-socket")
    }

    pub fn bind_stats(&self) -> Result<Option<Bound>> {
        let bind = |address| Bound::one(address, self.backlog, self.mode).context("--stats");
        self.stats.as_ref().map(bind).transpose()
    }
}

/// A socket that is bound and listens, and does not yet belong to a runtime.
pub enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

/// The file of a Unix socket, removed with the last listener.
pub struct SocketFile(PathBuf);

/// A socket that accepts.
pub struct Listener {
    socket: ListeningSocket,
}

enum ListeningSocket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: Arc<SocketFile> },
}

/// A connection.
pub struct Accepted {
    pub stream: Stream,
    /// None for a Unix socket.
    pub address: Option<IpAddr>,
}

impl Bound {
    /// Binds `address` and listens. A Unix socket gets the permissions `mode`.
    pub fn one(address: &Address, backlog: u32, mode: Option<Mode>) -> Result<Bound> {
        bind(address, backlog, mode, Sharing::Alone).with_context(|| cannot_listen(address))
    }

    /// Binds `address` and listens, with a socket for each of `count` threads:
    /// the system spreads the connections over them.
    pub fn many(address: &Address, backlog: u32, mode: Option<Mode>, count: usize) -> Result<Vec<Bound>> {
        let many = || -> Result<Vec<Bound>> {
            if count == 1 {
                return Ok(vec![bind(address, backlog, mode, Sharing::Alone)?]);
            }
            if address.port().is_some_and(|port| port != 0) {
                // Sockets that share a port share it with everyone who asks: so it
                // is seen first whether another server has it.
                drop(bind(address, backlog, mode, Sharing::Alone)?);
            }
            let first = bind(address, backlog, mode, Sharing::Port)?;
            let mut bound = Vec::with_capacity(count);
            for _ in 1..count {
                bound.push(first.again(backlog)?);
            }
            bound.push(first);
            Ok(bound)
        };
        many().with_context(|| cannot_listen(address))
    }

    /// Another socket with the same address.
    fn again(&self, backlog: u32) -> Result<Bound> {
        match self {
            Bound::Tcp(listener) => {
                let address = listener.local_addr()?;
                let only_v6 = address.is_ipv6() && SockRef::from(listener).only_v6()?;
                listen_tcp(address, backlog, only_v6, Sharing::Port).map(Bound::Tcp)
            }
            Bound::Unix(listener, file) => Ok(Bound::Unix(listener.try_clone()?, file.clone())),
        }
    }

    /// The address and port, unless it is a Unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(..) => None,
        }
    }

    /// The URL of this server, such as `http://127.0.0.1:8080/`.
    pub fn url(&self) -> String {
        match self {
            Bound::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}/"),
                Err(_) => "http://?/".to_owned(),
            },
            Bound::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// Hands it to the runtime that this runs in.
    pub fn listener(self) -> io::Result<Listener> {
        let socket = match self {
            Bound::Tcp(listener) => ListeningSocket::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(listener, file) => {
                ListeningSocket::Unix { listener: UnixListener::from_std(listener)?, _file: file }
            }
        };
        Ok(Listener { socket })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether a TCP port is bound by one socket or by several.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Port,
}

fn cannot_listen(address: &Address) -> String {
    format!("cannot listen on {address}; choose another address")
}

fn bind(address: &Address, backlog: u32, mode: Option<Mode>, sharing: Sharing) -> Result<Bound> {
    match address {
        Address::Unix(path) => listen_unix(path, backlog, mode),
        Address::Tcp(address) => listen_tcp(*address, backlog, true, sharing).map(Bound::Tcp),
        Address::EveryInterface(port) => listen_every_interface(*port, backlog, sharing).map(Bound::Tcp),
    }
}

impl Listener {
    /// Waits for a connection. It has no error: what is wrong with one connection is
    /// that client's affair, and when the system has no more descriptors, it waits until
    /// it has.
    pub async fn accept(&self, log: &Log) -> Accepted {
        let mut said = false;
        loop {
            match self.accept_stream().await {
                Ok((stream, address)) => return Accepted { stream, address },
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => {
                    if !said {
                        log.server(format_args!("cannot accept connections for now: {error}"));
                        said = true;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn accept_stream(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // A response leaves when it is written, not when it fills a
                // packet. A client that is gone already is found soon enough.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Some(address.ip())))
            }
            ListeningSocket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}

/// Errors that `accept` reports about the connection that it would have given
/// (accept(2): «treat them like EAGAIN by retrying»).
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | ConnectionRefused
            | Interrupted
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
    )
}

/// IPv6 and IPv4 on one socket, or IPv4 alone where the system has no IPv6.
fn listen_every_interface(port: u16, backlog: u32, sharing: Sharing) -> Result<std::net::TcpListener> {
    match listen_tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), backlog, false, sharing) {
        Err(error) if !is_in_use(&error) => {
            listen_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), backlog, false, sharing)
        }
        bound => bound,
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn listen_tcp(
    address: SocketAddr,
    backlog: u32,
    only_v6: bool,
    sharing: Sharing,
) -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // So that a restart need not wait for old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog.min(i32::MAX as u32) as i32)?;
    Ok(socket.into())
}

fn listen_unix(path: &Path, backlog: u32, mode: Option<Mode>) -> Result<Bound> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let file = Arc::new(SocketFile(path.to_owned()));
    if let Some(Mode(mode)) = mode {
        // Nobody can connect before it listens.
        std::fs::set_permissions(path, Permissions::from_mode(mode)).context("--chmod-socket")?;
    }
    socket.listen(backlog.min(i32::MAX as u32) as i32)?;
    Ok(Bound::Unix(OwnedFd::from(socket).into(), file))
}

/// Removes a socket that a server left behind which did not stop cleanly. One
/// that still answers is not touched, and neither is any other file.
fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("there is a file already that is not a socket")
        }
        Ok(_) => {}
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another server listens there");
    }
    std::fs::remove_file(path).context("the socket of an earlier server cannot be removed")
}
