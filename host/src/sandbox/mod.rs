//! What is around an instance: its state, its time, and what the host gives it.

pub(crate) mod deadline;
pub(crate) mod deferred_call;
pub(crate) mod epoch;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod http_hooks;
pub(crate) mod imports;
pub(crate) mod left_out;
pub(crate) mod meta_variables;
mod outbound_http;
pub(crate) mod output;
pub(crate) mod sockets;
pub(crate) mod state;
pub(crate) mod store;
pub(crate) mod tls;
mod tls_streams;
pub(crate) mod transfer;
mod transfer_states;
