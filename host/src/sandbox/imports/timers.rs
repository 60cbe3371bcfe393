//! `wasm-serve:deferred/timers`: `call-later` and `cancel`. They wait only for the store of the
//! calls, if there is one. Neither traps: every limit is an error value.

use wasmtime::component::{ComponentType, Linker, Lower, WasmList};
use wasmtime::{AsContextMut, Caller, StoreContextMut};

use crate::clock::Nanos;
use crate::contract::{CALL_LATER, TIMERS, TIMERS_MODULE};
use crate::deferred::{self, TimerId};
use crate::memory::account::OnNoAccount;
use crate::sandbox::state::State;

/// `schedule-error` of the contract.
#[derive(ComponentType, Lower)]
#[component(variant)]
pub(super) enum ScheduleError {
    #[component(name = "payload-too-large")]
    PayloadTooLarge(u64),
    #[component(name = "too-many-pending")]
    TooManyPending(u64),
    #[component(name = "delay-too-long")]
    DelayTooLong(u64),
    #[component(name = "unavailable")]
    Unavailable(String),
}

impl From<deferred::ScheduleError> for ScheduleError {
    fn from(error: deferred::ScheduleError) -> ScheduleError {
        match error {
            deferred::ScheduleError::PayloadTooLarge(max) => ScheduleError::PayloadTooLarge(max),
            deferred::ScheduleError::TooManyPending(max) => ScheduleError::TooManyPending(max),
            deferred::ScheduleError::DelayTooLong(max) => ScheduleError::DelayTooLong(max),
            deferred::ScheduleError::Unavailable(reason) => ScheduleError::Unavailable(reason),
        }
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut timers = linker.instance(TIMERS)?;
    timers.func_wrap_async("call-later", |mut store, (delay, payload): (Nanos, WasmList<u8>)| {
        Box::new(async move {
            let copy = |store: &StoreContextMut<'_, State>| payload.as_le_slice(store).into();
            Ok((schedule(&mut store, When::After(delay), payload.len(), copy).await,))
        })
    })?;
    timers
        .func_wrap_async("cancel", |store, (id,)| Box::new(async move { Ok((cancel(store, id).await,)) }))?;
    Ok(())
}

/// `call_later(delay_ns: i64, payload: i32, payload_bytes: i32) -> i64` gives the id, or
/// an error below zero. `cancel(id: i64) -> i32` gives 1 if the call will never run.
pub(crate) fn add_to_module_linker(linker: &mut wasmtime::Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(TIMERS_MODULE, CALL_LATER, |caller: Caller<'_, State>, (delay, at, bytes)| {
        Box::new(call_later_from_module(caller, delay, at, bytes))
    })?;
    linker.func_wrap_async(TIMERS_MODULE, "cancel", |mut caller: Caller<'_, State>, (id,): (u64,)| {
        Box::new(async move { i32::from(cancel(caller.as_context_mut(), id).await) })
    })?;
    Ok(())
}

async fn call_later_from_module(
    mut caller: Caller<'_, State>,
    delay: u64,
    at: u32,
    bytes: u32,
) -> wasmtime::Result<i64> {
    let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    let memory = memory.ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?;
    let range = at as usize..at as usize + bytes as usize;
    if range.end > memory.data_size(&caller) {
        return Err(wasmtime::Error::msg("a payload that is not in the memory"));
    }
    let copy = |store: &StoreContextMut<'_, State>| memory.data(store)[range].into();
    let when = When::After(delay);
    let scheduled = schedule(&mut caller.as_context_mut(), when, bytes as usize, copy).await;
    Ok(scheduled.map_or_else(|error| error.number(), |id| id as i64))
}

impl ScheduleError {
    /// As core modules see it.
    fn number(&self) -> i64 {
        match self {
            ScheduleError::PayloadTooLarge(_) => -1,
            ScheduleError::TooManyPending(_) => -2,
            ScheduleError::DelayTooLong(_) => -3,
            ScheduleError::Unavailable(_) => -4,
        }
    }
}

/// When a call is due.
#[derive(Clone, Copy)]
pub(super) enum When {
    After(Nanos),
    /// A time on the server's clock.
    At(Nanos),
}

/// Schedules a call with a payload of so many bytes.
pub(super) async fn schedule(
    store: &mut StoreContextMut<'_, State>,
    when: When,
    payload_bytes: usize,
    payload: impl FnOnce(&StoreContextMut<'_, State>) -> Box<[u8]>,
) -> Result<TimerId, ScheduleError> {
    let scheduled = within_limits(store, when, payload_bytes, payload).await;
    let stats = &store.data().server.stats;
    match &scheduled {
        Ok(_) => stats.deferred_scheduled.inc(),
        Err(_) => stats.deferred_refused.inc(),
    };
    scheduled.map_err(ScheduleError::from)
}

async fn within_limits(
    store: &mut StoreContextMut<'_, State>,
    when: When,
    payload_bytes: usize,
    payload: impl FnOnce(&StoreContextMut<'_, State>) -> Box<[u8]>,
) -> Result<TimerId, deferred::ScheduleError> {
    let server = store.data().server.clone();
    if store.data().deferred_scheduled >= server.deferred_per_call_max {
        return Err(deferred::ScheduleError::TooManyPending(server.deferred_per_call_max));
    }
    // Before the payload is copied out of the guest: it may be huge.
    if payload_bytes as u64 > server.payload_bytes_max {
        return Err(deferred::ScheduleError::PayloadTooLarge(server.payload_bytes_max));
    }
    let asked = {
        // It outlives the instance, and has limits of its own.
        let _for_the_server = OnNoAccount::begin();
        let payload = payload(store);
        match when {
            When::After(delay) => server.deferred.schedule(delay, payload),
            When::At(due) => server.deferred.schedule_at(due, payload),
        }
    };
    let id = asked.answer().await?;
    store.data_mut().deferred_scheduled += 1;
    Ok(id)
}

async fn cancel(store: StoreContextMut<'_, State>, id: TimerId) -> bool {
    let server = store.data().server.clone();
    let cancelled = server.deferred.cancel(id).await;
    if cancelled {
        server.stats.deferred_cancelled.inc();
    }
    cancelled
}
