//! Sockets of UDP, and lookups of names, by WASI 0.3.

use wasmtime::component::{Accessor, Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::{ErrorCode, HostUdpSocket, IpAddress, IpAddressFamily};
use wasmtime_wasi::p3::sockets::SocketResult;
use wasmtime_wasi::sockets::{UdpSocket, WasiSocketsCtxView, WasiSocketsView};

use super::functions::{Store, Version};
use crate::outbound::failure::Failure;
use crate::sandbox::sockets::BUFFER_BYTES_MAX;
use crate::sandbox::state::State;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let sockets = &mut linker.instance("wasi:sockets/types@0.3.0")?;
    sockets.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store: Store<'_>, number| {
        let state = store.data_mut();
        state.table().delete(Resource::<UdpSocket>::new_own(number))?;
        state.sockets_of_guest().release_udp(number);
        Ok(())
    })?;
    sockets.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
            Box::new(async move { Ok((create(store.data_mut(), family).await?,)) })
        },
    )?;
    set_size(sockets, "set-receive-buffer-size", |mut view, socket, bytes| {
        view.set_receive_buffer_size(socket, bytes)
    })?;
    set_size(sockets, "set-send-buffer-size", |mut view, socket, bytes| {
        view.set_send_buffer_size(socket, bytes)
    })?;
    linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<State>, (name,): (String,)| {
            Box::pin(async move { Ok((look_up(accessor, name).await,)) })
        },
    )
}

async fn create(
    state: &mut State,
    family: IpAddressFamily,
) -> wasmtime::Result<Result<Resource<UdpSocket>, ErrorCode>> {
    let (place, mut granted) = match state.take_udp() {
        Ok(taken) => taken,
        Err(code) => return Ok(Err(ErrorCode::of(code))),
    };
    let mut view = WasiSocketsCtxView { ctx: &mut granted, table: state.table() };
    match view.create(family).await {
        Ok(socket) => {
            state.sockets_of_guest().hold_udp(socket.rep(), place);
            Ok(Ok(socket))
        }
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

type SetSize = fn(WasiSocketsCtxView<'_>, Resource<UdpSocket>, u64) -> SocketResult<()>;

/// As wasmtime's, with a bound.
fn set_size(sockets: &mut LinkerInstance<'_, State>, name: &str, set: SetSize) -> wasmtime::Result<()> {
    sockets.func_wrap(
        &format!("[method]udp-socket.{name}"),
        move |mut store: Store<'_>, (socket, bytes): (Resource<UdpSocket>, u64)| {
            let set = set(store.data_mut().sockets(), socket, bytes.min(BUFFER_BYTES_MAX));
            Ok((match set {
                Ok(()) => Ok(()),
                Err(error) => Err(error.downcast()?),
            },))
        },
    )
}

async fn look_up(
    accessor: &Accessor<State>,
    name: String,
) -> Result<Vec<IpAddress>, ip_name_lookup::ErrorCode> {
    let (outbound, names, of_one) = accessor.with(|mut store| {
        let state = store.get();
        let sockets = state.sockets_of_guest();
        let (names, of_one) = (sockets.names.clone(), sockets.lookups.clone());
        (state.server.outbound.clone(), names, of_one)
    });
    let found = outbound.find(&name, of_one).await.map_err(|failure| match failure {
        Failure::LookupTimeout | Failure::TooMany => ip_name_lookup::ErrorCode::TemporaryResolverFailure,
        _ => ip_name_lookup::ErrorCode::NameUnresolvable,
    })?;
    for address in &found.addresses {
        found.name.iter().for_each(|name| names.add(name, *address));
    }
    Ok(found.addresses.into_iter().map(IpAddress::from).collect())
}
