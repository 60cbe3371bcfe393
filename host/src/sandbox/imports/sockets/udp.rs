//! Sockets of UDP are wasmtime's, as long as there is a place for them.

use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::udp::HostUdpSocket;
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket;
use wasmtime_wasi::p2::{SocketResult, UdpSocket};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView};

use super::functions::Store;
use crate::sandbox::sockets::BUFFER_BYTES_MAX;
use crate::sandbox::state::State;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance("wasi:sockets/udp-create-socket@0.2.12")?.func_wrap_async(
        "create-udp-socket",
        |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
            Box::new(async move { Ok((create(store.data_mut(), family).await?,)) })
        },
    )?;
    let mut udp = linker.instance("wasi:sockets/udp@0.2.12")?;
    udp.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store: Store<'_>, number| {
        let state = store.data_mut();
        state.table().delete(Resource::<UdpSocket>::new_own(number))?;
        state.sockets_of_guest().release_udp(number);
        Ok(())
    })?;
    set_size(&mut udp, "set-receive-buffer-size", |mut view, socket, bytes| {
        view.set_receive_buffer_size(socket, bytes)
    })?;
    set_size(&mut udp, "set-send-buffer-size", |mut view, socket, bytes| {
        view.set_send_buffer_size(socket, bytes)
    })
}

async fn create(
    state: &mut State,
    family: IpAddressFamily,
) -> wasmtime::Result<Result<Resource<UdpSocket>, ErrorCode>> {
    let (place, mut granted) = match state.take_udp() {
        Ok(taken) => taken,
        Err(code) => return Ok(Err(code)),
    };
    let mut view = WasiSocketsCtxView { ctx: &mut granted, table: state.table() };
    match udp_create_socket::Host::create_udp_socket(&mut view, family).await {
        Ok(socket) => {
            state.sockets_of_guest().hold_udp(socket.rep(), place);
            Ok(Ok(socket))
        }
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

type SetSize = fn(WasiSocketsCtxView<'_>, Resource<UdpSocket>, u64) -> SocketResult<()>;

/// As wasmtime's, with a bound.
fn set_size(udp: &mut LinkerInstance<'_, State>, name: &str, set: SetSize) -> wasmtime::Result<()> {
    udp.func_wrap(
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
