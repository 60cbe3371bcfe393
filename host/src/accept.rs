//! Listening and accepting. Nothing else accepts; no handshake and no guest runs
//! here, and no error of one client ends it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Address;
use crate::logging::Log;
use crate::socket::Stream;

/// How long accepting pauses when the system has no more to give.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that is bound and listens.
pub struct Listener {
    socket: ListeningSocket,
}

enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A connection with its place among `--connections`, given back on drop.
pub struct Accepted {
    pub stream: Stream,
    /// None for a Unix socket.
    pub address: Option<IpAddr>,
    pub place: OwnedSemaphorePermit,
}

impl Listener {
    /// Binds `address` and listens. Must run inside the runtime.
    pub fn bind(address: &Address, backlog: u32) -> Result<Listener> {
        let socket = match address {
            Address::Unix(path) => {
                listen_unix(path, backlog).map(|listener| ListeningSocket::Unix(listener, path.clone()))
            }
            Address::Tcp(address) => listen_tcp(*address, backlog, true).map(ListeningSocket::Tcp),
            Address::EveryInterface(port) => listen_every_interface(*port, backlog).map(ListeningSocket::Tcp),
        };
        let socket = socket.with_context(|| format!("cannot listen on {address}; choose another address"))?;
        Ok(Listener { socket })
    }

    /// The URL of this server, such as `http://127.0.0.1:8080/`.
    pub fn url(&self) -> String {
        match &self.socket {
            ListeningSocket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}/"),
                Err(_) => "http://?/".to_owned(),
            },
            ListeningSocket::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Waits for a place and a connection. It has no error: what is wrong with one
    /// connection is that client's affair, and when the system has no more
    /// descriptors, it waits until it has.
    pub async fn accept(&self, places: &Arc<Semaphore>, log: &Log) -> Accepted {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let mut said = false;
        loop {
            match self.accept_stream().await {
                Ok((stream, address)) => return Accepted { stream, address, place },
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
            ListeningSocket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListeningSocket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
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
fn listen_every_interface(port: u16, backlog: u32) -> Result<TcpListener> {
    let both = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    match listen_tcp(both, backlog, false) {
        Err(error) if !is_in_use(&error) => {
            listen_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), backlog, false)
        }
        bound => bound,
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn listen_tcp(address: SocketAddr, backlog: u32, only_v6: bool) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // So that a restart need not wait for old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog.min(i32::MAX as u32) as i32)?;
    Ok(TcpListener::from_std(socket.into())?)
}

fn listen_unix(path: &Path, backlog: u32) -> Result<UnixListener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(backlog.min(i32::MAX as u32) as i32)?;
    Ok(UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))?)
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
