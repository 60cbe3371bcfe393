//! The core module that calls: its memory, the state of its instance, and what its numbers
//! stand for.

use wasmtime::{AsContextMut, Caller, Extern};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wiggle::GuestMemory;

use crate::sandbox::files::numbers::Numbers;
use crate::sandbox::state::State;

pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// The module's memory, and the state; as wasmtime finds them.
pub(super) fn parts<'a>(
    caller: &'a mut Caller<'_, State>,
) -> wasmtime::Result<(GuestMemory<'a>, &'a mut State)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("missing required memory export");
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    state.preview1().set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(memory), state))
}

/// What the module has open.
pub(super) fn numbers(state: &mut State) -> &mut Numbers {
    let server = state.server.clone();
    state.files().numbers.get_or_insert_with(|| Numbers::new(&server.folders))
}
