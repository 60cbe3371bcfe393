//! Sockets of TCP by WASI 0.3. Their streams may outlive them, and hold the connection then.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, Destination, FutureReader, Linker, LinkerInstance, Resource, ResourceType, Source,
    StreamConsumer, StreamProducer, StreamReader, StreamResult,
};
use wasmtime_wasi::p2::bindings::sockets::network::{self, IpAddressFamily};
use wasmtime_wasi::p3::bindings::sockets::types::{self, ErrorCode, IpSocketAddress};

use super::functions::{Store, Version, get, set};
use super::{tcp, tcp_options};
use crate::sandbox::sockets::connection::{Receiver, Sender};
use crate::sandbox::sockets::tcp::Socket;
use crate::sandbox::state::State;

/// What is moved at once.
const PIECE_BYTES_MAX: usize = 64 << 10;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let sockets = &mut linker.instance("wasi:sockets/types@0.3.0")?;
    sockets.resource("tcp-socket", ResourceType::host::<Socket>(), |mut store: Store<'_>, number| {
        store.data_mut().table().delete(Resource::<Socket>::new_own(number))?;
        Ok(())
    })?;
    sockets.func_wrap(
        "[static]tcp-socket.create",
        |mut store: Store<'_>, (family,): (types::IpAddressFamily,)| {
            Ok((told(tcp::create(store.data_mut(), of_0_2(family))?),))
        },
    )?;
    add_binding(sockets)?;
    add_connecting(sockets)?;
    tcp_options::add::<ErrorCode>(sockets)
}

fn told<T>(result: Result<T, network::ErrorCode>) -> Result<T, ErrorCode> {
    result.map_err(ErrorCode::of)
}

pub(super) fn of_0_2(family: types::IpAddressFamily) -> IpAddressFamily {
    match family {
        types::IpAddressFamily::Ipv4 => IpAddressFamily::Ipv4,
        types::IpAddressFamily::Ipv6 => IpAddressFamily::Ipv6,
    }
}

fn of_0_3(family: IpAddressFamily) -> types::IpAddressFamily {
    match family {
        IpAddressFamily::Ipv4 => types::IpAddressFamily::Ipv4,
        IpAddressFamily::Ipv6 => types::IpAddressFamily::Ipv6,
    }
}

fn add_binding(sockets: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    sockets.func_wrap(
        "[method]tcp-socket.bind",
        |mut store: Store<'_>, (socket, address): (Resource<Socket>, IpSocketAddress)| {
            Ok((told(bind(store.data_mut(), &socket, address.into())?),))
        },
    )?;
    sockets.func_wrap(
        "[method]tcp-socket.listen",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            store.data_mut().table().get(&socket)?;
            let refused = tcp::refuse_to_listen(store.data());
            Ok((told(Err::<StreamReader<Resource<Socket>>, _>(refused)),))
        },
    )?;
    sockets.func_wrap(
        "[method]tcp-socket.get-is-listening",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            store.data_mut().table().get(&socket)?;
            Ok((false,))
        },
    )?;
    sockets.func_wrap(
        "[method]tcp-socket.get-address-family",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            Ok((of_0_3(store.data_mut().table().get(&socket)?.family()),))
        },
    )?;
    set::<ErrorCode, _>(sockets, "set-listen-backlog-size", tcp::set_backlog)
}

fn bind(
    state: &mut State,
    socket: &Resource<Socket>,
    address: SocketAddr,
) -> wasmtime::Result<Result<(), network::ErrorCode>> {
    match tcp::start_bind(state, socket, address)? {
        Ok(()) => Ok(state.table().get_mut(socket)?.finish_bind()),
        Err(code) => Ok(Err(code)),
    }
}

fn add_connecting(sockets: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    sockets.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<State>, (socket, address): (Resource<Socket>, IpSocketAddress)| {
            Box::pin(async move { Ok((told(connect(accessor, socket, address.into()).await?),)) })
        },
    )?;
    sockets.func_wrap("[method]tcp-socket.send", |mut store: Store<'_>, (socket, bytes)| {
        Ok((send(&mut store, &socket, bytes)?,))
    })?;
    sockets.func_wrap("[method]tcp-socket.receive", |mut store: Store<'_>, (socket,)| {
        Ok((receive(&mut store, &socket)?,))
    })?;
    get::<ErrorCode, _>(sockets, "local-address", |socket| {
        Ok(IpSocketAddress::from(socket.local_address()?))
    })?;
    get::<ErrorCode, _>(sockets, "remote-address", |socket| {
        Ok(IpSocketAddress::from(socket.remote_address()?))
    })
}

async fn connect(
    accessor: &Accessor<State>,
    socket: Resource<Socket>,
    address: SocketAddr,
) -> wasmtime::Result<Result<(), network::ErrorCode>> {
    let begun = accessor.with(|mut store| tcp::start_connect(store.get(), &socket, address))?;
    if let Err(code) = begun {
        return Ok(Err(code));
    }
    poll_fn(|cx| {
        accessor.with(|mut store| match store.get().table().get_mut(&socket) {
            Ok(socket) => socket.poll_connect(cx).map(Ok),
            Err(error) => Poll::Ready(Err(error.into())),
        })
    })
    .await
}

type Told = oneshot::Sender<Result<(), ErrorCode>>;

/// What the interface tells of a stream's end.
fn end(told: Option<Told>, end: io::Result<()>) -> StreamResult {
    let result = end.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ErrorCode::ConnectionBroken,
        _ => ErrorCode::of(error.into()),
    });
    // Nobody may want to know.
    let _ = told.map(|told| told.send(result));
    StreamResult::Dropped
}

fn send(
    store: &mut Store<'_>,
    socket: &Resource<Socket>,
    mut bytes: StreamReader<u8>,
) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
    let (told, result) = oneshot::channel();
    match store.data_mut().table().get_mut(socket)?.sender() {
        Ok(sender) => bytes.pipe(&mut *store, Outgoing { sender, told: Some(told) })?,
        Err(code) => {
            let _ = told.send(Err(ErrorCode::of(code)));
            bytes.close(&mut *store)?;
        }
    }
    FutureReader::new(&mut *store, result)
}

struct Outgoing {
    sender: Sender,
    told: Option<Told>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        end(self.told.take(), Ok(()));
    }
}

impl StreamConsumer<State> for Outgoing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, State>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let polled = match source.remaining() {
            // Only whether something could be written is asked.
            [] => self.sender.poll_writable(cx).map(|()| Ok(0)),
            bytes => self.sender.poll_write(cx, bytes),
        };
        Poll::Ready(Ok(match polled {
            Poll::Ready(Ok(count)) => {
                source.mark_read(count);
                StreamResult::Completed
            }
            Poll::Ready(Err(error)) => end(self.told.take(), Err(error)),
            Poll::Pending if finish => StreamResult::Cancelled,
            Poll::Pending => return Poll::Pending,
        }))
    }
}

type Received = (StreamReader<u8>, FutureReader<Result<(), ErrorCode>>);

fn receive(store: &mut Store<'_>, socket: &Resource<Socket>) -> wasmtime::Result<Received> {
    let (told, result) = oneshot::channel();
    let bytes = match store.data_mut().table().get_mut(socket)?.receiver() {
        Ok(receiver) => StreamReader::new(&mut *store, Incoming { receiver, told: Some(told) })?,
        Err(code) => {
            let _ = told.send(Err(ErrorCode::of(code)));
            StreamReader::new(&mut *store, std::iter::empty())?
        }
    };
    Ok((bytes, FutureReader::new(&mut *store, result)?))
}

struct Incoming {
    receiver: Receiver,
    told: Option<Told>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        end(self.told.take(), Ok(()));
    }
}

impl StreamProducer<State> for Incoming {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, State>,
        into: Destination<'a, u8, BytesMut>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // Only whether something could be read is asked.
        if into.remaining(&mut store) == Some(0) {
            return match self.receiver.poll_readable(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => Poll::Pending,
            };
        }
        let mut into = into.as_direct(store, PIECE_BYTES_MAX);
        Poll::Ready(Ok(match self.receiver.poll_read(cx, into.remaining()) {
            Poll::Ready(Ok(0)) => end(self.told.take(), Ok(())),
            Poll::Ready(Ok(count)) => {
                into.mark_written(count);
                StreamResult::Completed
            }
            Poll::Ready(Err(error)) => end(self.told.take(), Err(error)),
            Poll::Pending if finish => StreamResult::Cancelled,
            Poll::Pending => return Poll::Pending,
        }))
    }
}
