//! `wasi:config`: values by their names. Its versions differ in their names, and in whether an
//! answer may be an error. Both shapes have gone by one name, so each component gets its own.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::types::{ComponentFunc, Type};
use wasmtime::component::{Component, Linker, Val};

use crate::contract::CONFIG;
use crate::named_values::Values;
use crate::sandbox::state::State;

/// Adds what the component imports of it.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    let ty = component.component_type();
    for (name, _) in ty.imports(component.engine()).filter(|(name, _)| CONFIG.contains(name)) {
        let mut interface = linker.instance(name)?;
        interface.func_new("get", |mut caller, ty, params, results| {
            let values = values(&mut caller);
            let value = match params {
                [Val::String(key)] => values.get(key.as_str()),
                _ => None,
            };
            give(&ty, Val::Option(value.map(|value| Val::String(value.clone()).into())), results)
        })?;
        interface.func_new("get-all", |mut caller, ty, _, results| {
            let pair = |(name, value): (&String, &String)| {
                Val::Tuple(vec![Val::String(name.clone()), Val::String(value.clone())])
            };
            give(&ty, Val::List(values(&mut caller).iter().map(pair).collect()), results)
        })?;
    }
    Ok(())
}

/// What the instance saw first: it does not change under it.
fn values(caller: &mut StoreContextMut<'_, State>) -> Arc<Values> {
    let state = caller.data_mut();
    let now = || state.server.named_values.now();
    state.values.get_or_insert_with(now).clone()
}

fn give(ty: &ComponentFunc, value: Val, results: &mut [Val]) -> wasmtime::Result<()> {
    let [result] = results else { wasmtime::bail!("a function of another shape") };
    *result = match ty.results().next() {
        Some(Type::Result(_)) => Val::Result(Ok(Some(Box::new(value)))),
        _ => value,
    };
    Ok(())
}
