//! How names are looked up that are granted.

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, subscribe};

use super::functions::Store;
use crate::sandbox::sockets::lookup::Lookup;
use crate::sandbox::state::State;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut lookup = linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?;
    lookup.resource(
        "resolve-address-stream",
        ResourceType::host::<Lookup>(),
        |mut store: Store<'_>, number| {
            store.data_mut().table().delete(Resource::<Lookup>::new_own(number))?;
            Ok(())
        },
    )?;
    lookup.func_wrap(
        "resolve-addresses",
        |mut store: Store<'_>, (network, name): (Resource<Network>, String)| {
            let state = store.data_mut();
            state.table().get(&network)?;
            let of_one = state.sockets_of_guest().lookups.clone();
            let lookup = Lookup::begin(state.server.outbound.clone(), name, of_one);
            Ok((Ok::<_, ErrorCode>(state.table().push(lookup)?),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Store<'_>, (lookup,): (Resource<Lookup>,)| {
            let names = store.data_mut().sockets_of_guest().names.clone();
            let next = store.data_mut().table().get_mut(&lookup)?.next(&names);
            Ok((next.map(|address| address.map(IpAddress::from)),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: Store<'_>, (lookup,): (Resource<Lookup>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().table(), lookup)?;
            Ok((pollable,))
        },
    )
}
