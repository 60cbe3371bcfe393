//! wasm-serve: an application server for WebAssembly. The map in `host/README.md`
//! says which file answers which question.

mod cache;
mod clock;
pub mod commands;
pub mod config;
mod connection;
mod contract;
pub mod deferred;
mod dispatch;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest;
pub mod memory;
mod outbound;
mod program;
mod python;
mod request;
mod sandbox;
pub mod server;
mod system;
mod telemetry;
mod terminal;

pub use self::terminal::say;
