//! wasm-serve: an application server for WebAssembly. The README's map says which
//! file answers which question.

pub mod accept;
pub mod activity;
pub mod cache;
pub mod call;
pub mod callback;
pub mod clock;
pub mod compiled;
pub mod config;
pub mod connection;
pub mod cores;
pub mod deadline;
pub mod deferred;
pub mod dispatch;
pub mod error;
pub mod figures;
pub mod guest;
pub mod head;
pub mod imports;
pub mod instance;
pub mod logging;
pub mod memories;
pub mod meta_variables;
pub mod peer;
pub mod python;
pub mod record;
pub mod request;
pub mod request_body;
pub mod response;
pub mod server;
pub mod shutdown;
pub mod socket;
pub mod stacks;
pub mod state;
pub mod stats;
pub mod worker;
