//! `wasi:keyvalue/batch`: many keys in one call. What one call of it sets or deletes is done as a
//! whole or not at all, though the drafts promise less.

use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, Linker, Resource, WasmList};

use super::draft::{Answer, Bucket, Caller, Draft, answer, store};
use crate::keyvalue::{Error, Pair};
use crate::sandbox::state::State;

/// The second draft was changed and kept its name: a key that is not there had no entry of its
/// own, and then an entry without a value.
pub(super) fn add_to_linker<D: Draft>(
    linker: &mut Linker<State>,
    component: &Component,
) -> wasmtime::Result<()> {
    let name = format!("wasi:keyvalue/batch@{}", D::VERSION);
    let names_each_key = names_each_key(component, &name);
    let mut interface = linker.instance(&name)?;
    match names_each_key {
        true => interface.func_wrap_async("get-many", |caller, (bucket, keys)| {
            Box::new(async move {
                let found = get_many(caller, bucket, keys).await?;
                answer(found)
            })
        })?,
        false => interface.func_wrap_async("get-many", |caller, (bucket, keys)| {
            Box::new(async move {
                let found = get_many(caller, bucket, keys).await?;
                let pair = |(key, value): (String, Option<Vec<u8>>)| value.map(|value| (key, value));
                answer(found.map(|found| found.into_iter().map(pair).collect::<Vec<Option<Pair>>>()))
            })
        })?,
    }
    interface
        .func_wrap_async("set-many", |caller, (bucket, pairs)| Box::new(set_many(caller, bucket, pairs)))?;
    interface.func_wrap_async("delete-many", |mut caller, (bucket, keys)| {
        Box::new(async move { answer(store(&mut caller, &bucket)?.delete_many(keys).await) })
    })?;
    Ok(())
}

/// Whether what `get-many` gives is `list<tuple<string, option<list<u8>>>>` to this component.
fn names_each_key(component: &Component, interface: &str) -> bool {
    let engine = component.engine();
    let ty = component.component_type();
    let import = ty.get_import(engine, interface).map(|import| import.ty);
    let Some(ComponentItem::ComponentInstance(interface)) = import else {
        return false;
    };
    let function = interface.get_export(engine, "get-many");
    let Some(ComponentItem::ComponentFunc(function)) = function.map(|function| function.ty) else {
        return false;
    };
    let result = function.results().next();
    let Some(Type::Result(result)) = result else { return false };
    let Some(Type::List(list)) = result.ok() else { return false };
    matches!(list.ty(), Type::Tuple(_))
}

type Found = Vec<(String, Option<Vec<u8>>)>;

async fn get_many(
    mut caller: Caller<'_>,
    bucket: Resource<Bucket>,
    keys: Vec<String>,
) -> wasmtime::Result<Result<Found, Error>> {
    let values = store(&mut caller, &bucket)?.get_many(keys.clone()).await;
    Ok(values.map(|values| keys.into_iter().zip(values).collect()))
}

async fn set_many(
    mut caller: Caller<'_>,
    bucket: Resource<Bucket>,
    pairs: Vec<(String, WasmList<u8>)>,
) -> Answer<()> {
    let store = store(&mut caller, &bucket)?;
    if let Err(refused) = store.check_values(pairs.iter().map(|(_, value)| value.len())) {
        return answer(Err(refused));
    }
    let copy = |(key, value): (String, WasmList<u8>)| (key, value.as_le_slice(&caller).to_vec());
    let pairs = pairs.into_iter().map(copy).collect();
    answer(store.set_many(pairs).await)
}
