//! Random bytes of core modules, piece by piece.

use wasmtime::{Caller, Linker};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p2::bindings::random::random;
use wiggle::GuestPtr;

use super::caller::{MODULE, parts};
use crate::sandbox::state::{self, RANDOM_PIECE_BYTES, State};

pub(super) fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "random_get",
        |mut caller: Caller<'_, State>, (at, bytes): (i32, i32)| {
            Box::new(async move { random_get(&mut caller, at as u32, bytes as u32).await })
        },
    )?;
    Ok(())
}

async fn random_get(caller: &mut Caller<'_, State>, at: u32, bytes: u32) -> wasmtime::Result<i32> {
    let mut done = 0;
    while done < bytes {
        if done > 0 {
            state::pause(caller.data_mut())?.await;
        }
        let (mut memory, state) = parts(caller)?;
        let piece = (bytes - done).min(RANDOM_PIECE_BYTES as u32);
        let made = random::Host::get_random_bytes(state.preview1().ctx().ctx.random(), piece.into())?;
        let into = GuestPtr::<u8>::new(at).add(done)?.as_array(piece);
        memory.copy_from_slice(&made, into)?;
        done += piece;
    }
    Ok(Errno::Success as i32)
}
