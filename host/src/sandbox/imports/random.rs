//! `wasi:random`, in pieces: between them others run, and the deadline is looked at.
//! wasmtime makes 60 MiB at once, which takes a third of a second.

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::random::WasiRandomCtx;

use crate::sandbox::state::{self, RANDOM_PIECE_BYTES, State};

const SECURE: &str = "wasi:random/random@0.2.12";
const INSECURE: &str = "wasi:random/insecure@0.2.12";

/// Takes the place of wasmtime's functions of WASI 0.2.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let secure = linker.instance(SECURE)?.func_wrap_async("get-random-bytes", |store, (count,)| {
        Box::new(async move { Ok((bytes(store, count, random::Host::get_random_bytes).await?,)) })
    });
    let insecure =
        linker.instance(INSECURE)?.func_wrap_async("get-insecure-random-bytes", |store, (count,)| {
            Box::new(
                async move { Ok((bytes(store, count, insecure::Host::get_insecure_random_bytes).await?,)) },
            )
        });
    linker.allow_shadowing(false);
    secure.and(insecure)
}

type Make = fn(&mut WasiRandomCtx, u64) -> wasmtime::Result<Vec<u8>>;

async fn bytes(mut store: StoreContextMut<'_, State>, count: u64, make: Make) -> wasmtime::Result<Vec<u8>> {
    let bytes_max = store.data().server.host_bytes_max;
    if count > bytes_max {
        wasmtime::bail!("{count} random bytes at once are more than --host-memory-limit, {bytes_max}");
    }
    let mut made = Vec::new();
    while (made.len() as u64) < count {
        if !made.is_empty() {
            state::pause(store.data_mut())?.await;
        }
        let piece = (count - made.len() as u64).min(RANDOM_PIECE_BYTES);
        made.extend(make(store.data_mut().ctx().ctx.random(), piece)?);
    }
    Ok(made)
}
