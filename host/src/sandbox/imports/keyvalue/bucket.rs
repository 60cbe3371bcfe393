//! `wasi:keyvalue/store`: stores are opened, and asked for one key at a time.

use wasmtime::component::{ComponentType, Linker, Lower, Resource, ResourceType, WasmList};

use super::draft::{Answer, Bucket, Caller, Draft, answer, store};
use crate::keyvalue::{Error, Page, Store};
use crate::sandbox::state::State;

#[derive(ComponentType, Lower)]
#[component(record)]
struct KeyResponse<C> {
    keys: Vec<String>,
    cursor: Option<C>,
}

pub(super) fn add_to_linker<D: Draft>(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("wasi:keyvalue/store@{}", D::VERSION))?;
    interface.resource("bucket", ResourceType::host::<Bucket>(), |mut caller, number| {
        caller.data_mut().table().delete(Resource::<Bucket>::new_own(number))?;
        Ok(())
    })?;
    interface.func_wrap("open", |caller, (name,): (String,)| open(caller, &name))?;
    interface.func_wrap_async("[method]bucket.get", |mut caller, (bucket, key)| {
        Box::new(async move { answer(store(&mut caller, &bucket)?.get(key).await) })
    })?;
    interface.func_wrap_async("[method]bucket.set", |caller, (bucket, key, value)| {
        Box::new(set(caller, bucket, key, value))
    })?;
    interface.func_wrap_async("[method]bucket.delete", |mut caller, (bucket, key)| {
        Box::new(async move { answer(store(&mut caller, &bucket)?.delete_many(vec![key]).await) })
    })?;
    interface.func_wrap_async("[method]bucket.exists", |mut caller, (bucket, key)| {
        Box::new(async move { answer(store(&mut caller, &bucket)?.exists(key).await) })
    })?;
    interface.func_wrap_async("[method]bucket.list-keys", |mut caller, (bucket, from)| {
        Box::new(async move { answer(list::<D>(&*store(&mut caller, &bucket)?, from).await) })
    })?;
    Ok(())
}

fn open(mut caller: Caller<'_>, name: &str) -> Answer<Resource<Bucket>> {
    answer(match caller.data().server.stores.open(name) {
        Ok(store) => Ok(caller.data_mut().table().push(Bucket(store))?),
        Err(error) => Err(error),
    })
}

async fn set(
    mut caller: Caller<'_>,
    bucket: Resource<Bucket>,
    key: String,
    value: WasmList<u8>,
) -> Answer<()> {
    let store = store(&mut caller, &bucket)?;
    if let Err(refused) = store.check_value(value.len()) {
        return answer(Err(refused));
    }
    let value = value.as_le_slice(&caller).to_vec();
    answer(store.set_many(vec![(key, value)]).await)
}

async fn list<D: Draft>(store: &Store, from: Option<D::Cursor>) -> Result<KeyResponse<D::Cursor>, Error> {
    let from = from.map(D::from_cursor).transpose()?;
    let Page { keys, next } = store.list(from).await?;
    Ok(KeyResponse { keys, cursor: next.map(D::cursor) })
}
