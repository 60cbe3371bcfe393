//! A store for one instance.

use std::sync::Arc;

use wasmtime::{Engine, Store};

use super::deadline::Deadline;
use super::host::Host;
use super::state::{self, HOST_STEP_BYTES, RESOURCES_MAX, State};
use crate::memory::account::Account;
use crate::memory::budget::Share;

/// What a store is made of.
pub(crate) struct Ground<'a> {
    pub engine: &'a Engine,
    pub host: &'a Arc<Host>,
    pub share: Share,
    pub deadline: Arc<Deadline>,
}

impl Ground<'_> {
    pub(crate) fn store(self) -> Store<State> {
        let Ground { engine, host, share, deadline } = self;
        let account = Account::open(engine.weak(), HOST_STEP_BYTES);
        let state = State::new(host.clone(), deadline, account, share);
        let mut store = Store::new(engine, state);
        store.limiter(|state| state);
        store.epoch_deadline_callback(state::at_epoch);
        store.set_epoch_deadline(1);
        store.set_max_component_handles(RESOURCES_MAX);
        store.set_hostcall_fuel(host.host_bytes_max as usize);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(RESOURCES_MAX);
        }
        host.stats.instances_created.inc();
        store
    }
}
