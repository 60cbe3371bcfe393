//! wasm-serve: an application server for WebAssembly. The map in `host/README.md`
//! says which file answers which question.

pub mod cache;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connection;
pub mod contract;
pub mod deferred;
pub mod dispatch;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod guest;
pub mod memory;
pub mod program;
pub mod python;
pub mod request;
pub mod sandbox;
pub mod server;
pub mod system;
pub mod telemetry;
pub mod terminal;
