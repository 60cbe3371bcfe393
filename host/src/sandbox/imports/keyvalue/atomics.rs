//! `wasi:keyvalue/atomics`: what is done in one step. The second draft has a swap, too: whoever
//! wants to change a value says which one was seen, and nothing is changed if another one is there.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Linker, Lower, Resource, ResourceType, WasmList};

use super::draft::{Caller, Draft, Draft2, StoreError, answer, store};
use crate::keyvalue::{Error, Store};
use crate::sandbox::state::State;

/// `cas` of the second draft.
struct Swap {
    store: Arc<Store>,
    key: String,
    seen: Option<Vec<u8>>,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    StoreError(StoreError),
    #[component(name = "cas-failed")]
    CasFailed(Resource<Swap>),
}

pub(super) fn add_to_linker<D: Draft>(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("wasi:keyvalue/atomics@{}", D::VERSION))?;
    interface.func_wrap_async("increment", |mut caller, (bucket, key, delta)| {
        Box::new(async move { answer(increment::<D>(&*store(&mut caller, &bucket)?, key, delta).await) })
    })?;
    Ok(())
}

pub(super) fn add_swap_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("wasi:keyvalue/atomics@{}", Draft2::VERSION))?;
    interface.resource("cas", ResourceType::host::<Swap>(), |mut caller, number| {
        caller.data_mut().table().delete(Resource::<Swap>::new_own(number))?;
        Ok(())
    })?;
    interface.func_wrap_async("[static]cas.new", |mut caller, (bucket, key)| {
        Box::new(async move {
            let store = store(&mut caller, &bucket)?;
            answer(begin(&mut caller, store, key).await?)
        })
    })?;
    interface.func_wrap("[method]cas.current", |mut caller: Caller<'_>, (swap,): (Resource<Swap>,)| {
        answer(Ok(caller.data_mut().table().get(&swap)?.seen.clone()))
    })?;
    interface.func_wrap_async("swap", |caller, (swap, value)| Box::new(end(caller, swap, value)))?;
    Ok(())
}

async fn increment<D: Draft>(store: &Store, key: String, delta: D::Number) -> Result<D::Number, Error> {
    D::number(store.increment(key, D::from_number(delta)?, D::LEAST).await?)
}

/// Keeps the value that is there. It is a copy, since what the store gave is on no account.
async fn begin(
    caller: &mut Caller<'_>,
    store: Arc<Store>,
    key: String,
) -> wasmtime::Result<Result<Resource<Swap>, Error>> {
    let seen = match store.get(key.clone()).await {
        Ok(value) => value.as_deref().map(<[u8]>::to_vec),
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(caller.data_mut().table().push(Swap { store, key, seen })?))
}

async fn end(
    mut caller: Caller<'_>,
    swap: Resource<Swap>,
    value: WasmList<u8>,
) -> wasmtime::Result<(Result<(), CasError>,)> {
    let Swap { store, key, seen } = caller.data_mut().table().delete(swap)?;
    let done = match store.check_value(value.len()) {
        Ok(()) => {
            let value = value.as_le_slice(&caller).to_vec();
            store.swap(key.clone(), seen, value).await
        }
        Err(refused) => Err(refused),
    };
    let again = match done {
        Ok(true) => return Ok((Ok(()),)),
        // Whoever tries again begins with what is there now.
        Ok(false) => begin(&mut caller, store, key).await?,
        Err(error) => Err(error),
    };
    let failed = again.map_or_else(|error| CasError::StoreError(error.into()), CasError::CasFailed);
    Ok((Err(failed),))
}
