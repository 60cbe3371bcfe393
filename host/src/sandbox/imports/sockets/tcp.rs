//! Sockets of TCP: they connect to what is granted.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::ShutdownType;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, subscribe};

use super::functions::{Store, get, perform, set};
use super::tcp_options;
use crate::sandbox::sockets::TO_BIND;
use crate::sandbox::sockets::connection::{Receiver, Sender};
use crate::sandbox::sockets::tcp::Socket;
use crate::sandbox::state::State;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker
        .instance("wasi:sockets/tcp-create-socket@0.2.12")?
        .func_wrap("create-tcp-socket", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
            Ok((create(store.data_mut(), family)?,))
        })?;
    let tcp = &mut linker.instance("wasi:sockets/tcp@0.2.12")?;
    tcp.resource("tcp-socket", ResourceType::host::<Socket>(), |mut store: Store<'_>, number| {
        store.data_mut().table().delete(Resource::<Socket>::new_own(number))?;
        Ok(())
    })?;
    add_binding(tcp)?;
    add_connecting(tcp)?;
    tcp.func_wrap("[method]tcp-socket.subscribe", |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
        let pollable: Resource<DynPollable> = subscribe(store.data_mut().table(), socket)?;
        Ok((pollable,))
    })?;
    set::<ErrorCode, _>(tcp, "shutdown", |socket, how: ShutdownType| socket.shut_down(how))?;
    tcp_options::add::<ErrorCode>(tcp)
}

pub(super) fn create(
    state: &mut State,
    family: IpAddressFamily,
) -> wasmtime::Result<Result<Resource<Socket>, ErrorCode>> {
    let Some(place) = state.take_place() else { return Ok(Err(ErrorCode::NewSocketLimit)) };
    match Socket::new(family, place) {
        Ok(socket) => Ok(Ok(state.table().push(socket)?)),
        Err(error) => Ok(Err(error.into())),
    }
}

/// What a socket has before it connects, and what would make it listen.
fn add_binding(tcp: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    tcp.func_wrap(
        "[method]tcp-socket.start-bind",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<Socket>, Resource<Network>, IpSocketAddress)| {
            store.data_mut().table().get(&network)?;
            Ok((start_bind(store.data_mut(), &socket, address.into())?,))
        },
    )?;
    perform::<ErrorCode, _>(tcp, "finish-bind", Socket::finish_bind)?;
    tcp.func_wrap(
        "[method]tcp-socket.start-listen",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            store.data_mut().table().get(&socket)?;
            Ok((Err::<(), _>(refuse_to_listen(store.data())),))
        },
    )?;
    perform::<ErrorCode, _>(tcp, "finish-listen", |_| Err::<(), _>(ErrorCode::NotInProgress))?;
    perform::<ErrorCode, _>(tcp, "accept", |_| Err::<Accepted, _>(ErrorCode::InvalidState))?;
    tcp.func_wrap(
        "[method]tcp-socket.is-listening",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            store.data_mut().table().get(&socket)?;
            Ok((false,))
        },
    )?;
    set::<ErrorCode, _>(tcp, "set-listen-backlog-size", set_backlog)
}

pub(super) fn start_bind(
    state: &mut State,
    socket: &Resource<Socket>,
    address: SocketAddr,
) -> wasmtime::Result<Result<(), ErrorCode>> {
    let bound = state.table().get_mut(socket)?.start_bind(address);
    if bound == Err(ErrorCode::AccessDenied) {
        state.server.outbound.refuse(TO_BIND);
    }
    Ok(bound)
}

pub(super) fn refuse_to_listen(state: &State) -> ErrorCode {
    state.server.outbound.refuse("listen for connections");
    ErrorCode::AccessDenied
}

pub(super) fn set_backlog(_: &mut Socket, size: u64) -> Result<(), ErrorCode> {
    match size {
        0 => Err(ErrorCode::InvalidArgument),
        _ => Ok(()),
    }
}

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);
type Accepted = (Resource<Socket>, Resource<DynInputStream>, Resource<DynOutputStream>);

fn add_connecting(tcp: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    tcp.func_wrap(
        "[method]tcp-socket.start-connect",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<Socket>, Resource<Network>, IpSocketAddress)| {
            store.data_mut().table().get(&network)?;
            Ok((start_connect(store.data_mut(), &socket, address.into())?,))
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.finish-connect",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            Ok((finish_connect(store.data_mut(), &socket)?,))
        },
    )?;
    get::<ErrorCode, _>(tcp, "local-address", |socket| Ok(IpSocketAddress::from(socket.local_address()?)))?;
    get::<ErrorCode, _>(tcp, "remote-address", |socket| Ok(IpSocketAddress::from(socket.remote_address()?)))?;
    tcp.func_wrap(
        "[method]tcp-socket.address-family",
        |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            Ok((store.data_mut().table().get(&socket)?.family(),))
        },
    )
}

pub(super) fn start_connect(
    state: &mut State,
    socket: &Resource<Socket>,
    address: SocketAddr,
) -> wasmtime::Result<Result<(), ErrorCode>> {
    let outbound = state.server.outbound.clone();
    // What cannot be is not told of as what is not granted.
    if let Err(code) = state.table().get(socket)?.may_connect(address) {
        return Ok(Err(code));
    }
    let record = match state.sockets_of_guest().check_tcp(&outbound, address) {
        Ok(record) => record,
        Err(code) => return Ok(Err(code)),
    };
    Ok(state.table().get_mut(socket)?.start_connect(address, outbound.limits().times.connect, record))
}

fn streams(socket: &mut Socket) -> Result<(Receiver, Sender), ErrorCode> {
    match socket.poll_connect(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Err(ErrorCode::WouldBlock),
        Poll::Ready(connected) => connected.and_then(|()| Ok((socket.receiver()?, socket.sender()?))),
    }
}

fn finish_connect(
    state: &mut State,
    socket: &Resource<Socket>,
) -> wasmtime::Result<Result<Streams, ErrorCode>> {
    let (receiver, sender) = match streams(state.table().get_mut(socket)?) {
        Ok(streams) => streams,
        Err(code) => return Ok(Err(code)),
    };
    let (input, output): (DynInputStream, DynOutputStream) = (Box::new(receiver), Box::new(sender));
    Ok(Ok((state.table().push_child(input, socket)?, state.table().push_child(output, socket)?)))
}
