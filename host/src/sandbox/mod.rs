//! What is around an instance: its state, its time, and what the host gives it.

pub mod deadline;
pub mod deferred_call;
pub mod epoch;
pub mod files;
pub mod host;
pub mod http_hooks;
pub mod imports;
pub mod meta_variables;
pub mod output;
pub mod state;
pub mod store;
pub mod transfer;
mod transfer_states;
