//! A socket of TCP: how it is connected, and its options. wasmtime's own would wait for a
//! connection as long as the system does, and would hold back small pieces.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::tcp::ShutdownType;

use super::connection::{Connected, Receiver, Sender};
use super::{BUFFER_BYTES_MAX, is_unbound};
use crate::outbound::failure::Failure;
use crate::outbound::record::Record;
use crate::sandbox::files::places::Place;

/// A socket of a guest.
pub(crate) struct Socket {
    family: IpAddressFamily,
    stage: Stage,
}

enum Stage {
    Unconnected { socket: TcpSocket, place: Place, binding: Binding },
    Connecting { stream: Connecting, place: Place },
    Connected(Connected),
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Binding {
    None,
    Begun,
    Done,
}

/// What becomes of connecting.
type Connection = Result<(TcpStream, Record), Arc<io::Error>>;

enum Connecting {
    UnderWay(Pin<Box<dyn Future<Output = Connection> + Send>>),
    Done(Connection),
}

impl Connecting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Connecting::UnderWay(future) = self {
            *self = Connecting::Done(ready!(future.as_mut().poll(cx)));
        }
        Poll::Ready(())
    }
}

impl Socket {
    pub(crate) fn new(family: IpAddressFamily, place: Place) -> io::Result<Socket> {
        let socket = match family {
            IpAddressFamily::Ipv4 => TcpSocket::new_v4()?,
            IpAddressFamily::Ipv6 => {
                let socket = TcpSocket::new_v6()?;
                sockopt::set_ipv6_v6only(&socket, true)?;
                socket
            }
        };
        // The interface has no option for it, and guests write heads and bodies by themselves.
        sockopt::set_tcp_nodelay(&socket, true)?;
        // By itself the system would let them grow to a multiple, for which nobody accounts.
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES_MAX as usize)?;
        sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES_MAX as usize)?;
        Ok(Socket { family, stage: Stage::Unconnected { socket, place, binding: Binding::None } })
    }

    pub(crate) fn family(&self) -> IpAddressFamily {
        self.family
    }

    pub(crate) fn start_bind(&mut self, address: SocketAddr) -> Result<(), ErrorCode> {
        self.check_family(address.ip())?;
        match &mut self.stage {
            Stage::Unconnected { binding: Binding::Begun, .. } | Stage::Connecting { .. } => {
                Err(ErrorCode::ConcurrencyConflict)
            }
            Stage::Unconnected { socket, binding: binding @ Binding::None, .. } => {
                if !is_unbound(address) {
                    return Err(ErrorCode::AccessDenied);
                }
                socket.bind(address)?;
                *binding = Binding::Begun;
                Ok(())
            }
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(crate) fn finish_bind(&mut self) -> Result<(), ErrorCode> {
        match &mut self.stage {
            Stage::Unconnected { binding: binding @ Binding::Begun, .. } => {
                *binding = Binding::Done;
                Ok(())
            }
            _ => Err(ErrorCode::NotInProgress),
        }
    }

    /// Whether it may connect to an address that is granted.
    pub(crate) fn may_connect(&self, address: SocketAddr) -> Result<(), ErrorCode> {
        match &self.stage {
            Stage::Unconnected { binding: Binding::Begun, .. } | Stage::Connecting { .. } => {
                return Err(ErrorCode::ConcurrencyConflict);
            }
            Stage::Unconnected { .. } => {}
            _ => return Err(ErrorCode::InvalidState),
        }
        self.check_family(address.ip())?;
        match address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
            true => Err(ErrorCode::InvalidArgument),
            false => Ok(()),
        }
    }

    /// Begins to connect to an address that is granted, which takes no longer than this.
    pub(crate) fn start_connect(
        &mut self,
        address: SocketAddr,
        time_max: Duration,
        record: Record,
    ) -> Result<(), ErrorCode> {
        self.may_connect(address)?;
        let Stage::Unconnected { socket, place, .. } = std::mem::replace(&mut self.stage, Stage::Failed)
        else {
            return Err(ErrorCode::InvalidState);
        };
        let mut stream = Connecting::UnderWay(Box::pin(async move {
            let connected = timeout(time_max, socket.connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    record.note_connected();
                    Ok((stream, record))
                }
                Err(error) => {
                    let error = Arc::new(error);
                    record.note_failure(&Failure::Connect(error.clone()));
                    Err(error)
                }
            }
        }));
        // The guest need not wait for it to begin.
        let _ = stream.poll(&mut Context::from_waker(Waker::noop()));
        self.stage = Stage::Connecting { stream, place };
        Ok(())
    }

    /// Ready when it is connected, or cannot be.
    pub(crate) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorCode>> {
        let Stage::Connecting { stream, .. } = &mut self.stage else {
            return Poll::Ready(Err(ErrorCode::NotInProgress));
        };
        ready!(stream.poll(cx));
        Poll::Ready(match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Connecting { stream: Connecting::Done(stream), place } => {
                let (stream, record) = stream.map_err(|error| ErrorCode::from(&*error))?;
                self.stage = Stage::Connected(Connected::new(stream, place, record));
                Ok(())
            }
            _ => Err(ErrorCode::InvalidState),
        })
    }

    /// What comes over the connection; once.
    pub(crate) fn receiver(&mut self) -> Result<Receiver, ErrorCode> {
        let Stage::Connected(connected) = &mut self.stage else { return Err(ErrorCode::InvalidState) };
        connected.receiver.take().ok_or(ErrorCode::InvalidState)
    }

    /// What goes over it; once.
    pub(crate) fn sender(&mut self) -> Result<Sender, ErrorCode> {
        let Stage::Connected(connected) = &mut self.stage else { return Err(ErrorCode::InvalidState) };
        connected.sender.take().ok_or(ErrorCode::InvalidState)
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.stage {
            Stage::Unconnected { socket, binding: Binding::Done, .. } => Ok(socket.local_addr()?),
            Stage::Connected(connected) => Ok(connected.local_address()?),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(crate) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.stage {
            Stage::Connected(connected) => Ok(connected.remote_address()?),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(crate) fn shut_down(&self, how: ShutdownType) -> Result<(), ErrorCode> {
        let Stage::Connected(connected) = &self.stage else { return Err(ErrorCode::InvalidState) };
        if matches!(how, ShutdownType::Receive | ShutdownType::Both) {
            connected.shut_receiving();
        }
        if matches!(how, ShutdownType::Send | ShutdownType::Both) {
            connected.shut_sending();
        }
        Ok(())
    }

    /// For the options that it has.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, ErrorCode> {
        match &self.stage {
            Stage::Unconnected { socket, .. } => Ok(socket.as_fd()),
            Stage::Connected(connected) => Ok(connected.fd()),
            Stage::Connecting { .. } | Stage::Failed => Err(ErrorCode::InvalidState),
        }
    }

    /// An IPv4 address that is written as one of IPv6 is none that a socket of IPv6 has.
    fn check_family(&self, address: IpAddr) -> Result<(), ErrorCode> {
        match (self.family, address) {
            (IpAddressFamily::Ipv4, IpAddr::V4(_)) => Ok(()),
            (IpAddressFamily::Ipv6, IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => Ok(()),
            _ => Err(ErrorCode::InvalidArgument),
        }
    }
}

#[async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {
        if let Stage::Connecting { stream, .. } = &mut self.stage {
            std::future::poll_fn(|cx| stream.poll(cx)).await;
        }
    }
}
