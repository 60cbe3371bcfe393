//! wasm-serve: an application server for WebAssembly. The map in `host/README.md`
//! says which file answers which question.

mod cache;
pub mod commands;
pub mod config;
mod connection;
mod contract;
mod dispatch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest;
mod keyvalue;
pub mod memory;
mod named_values;
mod outbound;
mod program;
mod python;
mod request;
mod sandbox;
pub mod server;
mod statuses;
mod system;
mod telemetry;
mod terminal;

pub use self::terminal::say;
// Deferred calls, and the clock by which they are due, are a crate of their own.
pub use ::deferred;
use ::deferred::clock;
