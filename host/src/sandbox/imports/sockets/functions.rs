//! Functions of sockets of TCP that both versions of the interface have.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, LinkerInstance, Lower, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::p3::bindings::sockets::types;

use crate::sandbox::sockets::tcp::Socket;
use crate::sandbox::state::State;

pub(super) type Store<'a> = StoreContextMut<'a, State>;

/// A version, by what it calls errors.
pub(super) trait Version: ComponentType + Lower + Send + Sync + 'static {
    /// What the names of functions begin with that only ask.
    const GET: &'static str;

    fn of(code: ErrorCode) -> Self;
}

impl Version for ErrorCode {
    const GET: &'static str = "";

    fn of(code: ErrorCode) -> Self {
        code
    }
}

impl Version for types::ErrorCode {
    const GET: &'static str = "get-";

    fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::AccessDenied => types::ErrorCode::AccessDenied,
            ErrorCode::NotSupported => types::ErrorCode::NotSupported,
            ErrorCode::InvalidArgument => types::ErrorCode::InvalidArgument,
            ErrorCode::OutOfMemory => types::ErrorCode::OutOfMemory,
            ErrorCode::Timeout => types::ErrorCode::Timeout,
            ErrorCode::AddressNotBindable => types::ErrorCode::AddressNotBindable,
            ErrorCode::AddressInUse => types::ErrorCode::AddressInUse,
            ErrorCode::RemoteUnreachable => types::ErrorCode::RemoteUnreachable,
            ErrorCode::ConnectionRefused => types::ErrorCode::ConnectionRefused,
            ErrorCode::ConnectionReset => types::ErrorCode::ConnectionReset,
            ErrorCode::ConnectionAborted => types::ErrorCode::ConnectionAborted,
            ErrorCode::DatagramTooLarge => types::ErrorCode::DatagramTooLarge,
            ErrorCode::InvalidState
            | ErrorCode::ConcurrencyConflict
            | ErrorCode::NotInProgress
            | ErrorCode::WouldBlock => types::ErrorCode::InvalidState,
            ErrorCode::NewSocketLimit => types::ErrorCode::Other(Some("new-socket-limit".to_owned())),
            _ => types::ErrorCode::Other(None),
        }
    }
}

/// One that only asks.
pub(super) fn get<V: Version, T: ComponentType + Lower + Send + Sync + 'static>(
    tcp: &mut LinkerInstance<'_, State>,
    name: &str,
    get: fn(&Socket) -> Result<T, ErrorCode>,
) -> wasmtime::Result<()> {
    tcp.func_wrap(
        &format!("[method]tcp-socket.{}{name}", V::GET),
        move |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            Ok((get(store.data_mut().table().get(&socket)?).map_err(V::of),))
        },
    )
}

/// One that does something without further ado.
pub(super) fn perform<V: Version, T: ComponentType + Lower + Send + Sync + 'static>(
    tcp: &mut LinkerInstance<'_, State>,
    name: &str,
    perform: fn(&mut Socket) -> Result<T, ErrorCode>,
) -> wasmtime::Result<()> {
    tcp.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: Store<'_>, (socket,): (Resource<Socket>,)| {
            Ok((perform(store.data_mut().table().get_mut(&socket)?).map_err(V::of),))
        },
    )
}

/// One that is given something.
pub(super) fn set<V: Version, T: ComponentType + Lift + Send + Sync + 'static>(
    tcp: &mut LinkerInstance<'_, State>,
    name: &str,
    set: fn(&mut Socket, T) -> Result<(), ErrorCode>,
) -> wasmtime::Result<()> {
    tcp.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: Store<'_>, (socket, value): (Resource<Socket>, T)| {
            Ok((set(store.data_mut().table().get_mut(&socket)?, value).map_err(V::of),))
        },
    )
}
