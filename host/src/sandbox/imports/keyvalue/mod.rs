//! `wasi:keyvalue` in the two drafts that guests are made for, which do not fit each other.

mod atomics;
mod batch;
mod bucket;
mod draft;

use wasmtime::component::{Component, Linker};

use self::draft::{Draft, Draft1, Draft2};
use crate::contract::KEYVALUE;
use crate::sandbox::state::State;

/// Adds what the component imports of it.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    add::<Draft1>(linker, component)?;
    if add::<Draft2>(linker, component)? {
        atomics::add_swap_to_linker(linker)?;
    }
    Ok(())
}

fn add<D: Draft>(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<bool> {
    let engine = component.engine();
    let is_of_draft = |name: &str| {
        name.strip_prefix(KEYVALUE)
            .and_then(|rest| rest.split_once('@'))
            .is_some_and(|(_, of)| of == D::VERSION)
    };
    if !component.component_type().imports(engine).any(|(name, _)| is_of_draft(name)) {
        return Ok(false);
    }
    bucket::add_to_linker::<D>(linker)?;
    atomics::add_to_linker::<D>(linker)?;
    batch::add_to_linker::<D>(linker, component)?;
    Ok(true)
}
