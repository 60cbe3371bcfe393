//! wasm-serve: an application server for WebAssembly. The map in `host/README.md`
//! says which file answers which question.

pub mod address_file;
pub mod cache;
pub mod clock;
pub mod config;
pub mod connection;
pub mod deferred;
pub mod dispatch;
pub mod error;
pub mod escape;
pub mod figures;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod guest;
pub mod inspect;
pub mod memory;
pub mod open_files;
pub mod program;
pub mod project;
pub mod python;
pub mod request;
pub mod sandbox;
pub mod server;
pub mod shutdown;
pub mod swap;
pub mod system;
pub mod telemetry;
pub mod worker;
