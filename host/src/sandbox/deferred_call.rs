//! A deferred call as the contract has it.

use wasmtime::component::{ComponentType, Lower};

use crate::deferred::Call;

/// `deferred-call` of the contract.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct DeferredCall {
    id: u64,
    payload: Box<[u8]>,
    #[component(name = "scheduled-at")]
    scheduled_at: u64,
    #[component(name = "due-at")]
    due_at: u64,
    attempt: u32,
}

impl From<Call> for DeferredCall {
    fn from(call: Call) -> DeferredCall {
        DeferredCall {
            id: call.id,
            payload: call.payload,
            scheduled_at: call.scheduled,
            due_at: call.due,
            attempt: call.attempt,
        }
    }
}
