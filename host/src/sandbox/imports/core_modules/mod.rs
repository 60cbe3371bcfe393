//! WASI 0.1 of core modules, as far as it is ours: what a module has open is counted, and
//! long calls are made in pieces. wasmtime does the rest.

/// The module that calls.
mod caller;
/// What it has open.
mod opened;
/// Its paths that may be about locks.
mod paths;
/// Random bytes, piece by piece.
mod random;

use wasmtime::Linker;

use crate::sandbox::state::State;

/// Takes the place of wasmtime's functions.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let defined = define(linker);
    linker.allow_shadowing(false);
    defined
}

fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    opened::define(linker)?;
    random::define(linker)?;
    paths::define(linker)
}
