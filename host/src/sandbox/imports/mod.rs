//! What the host offers to guests, a file an interface.

pub mod files;
pub mod gateway;
pub mod http;
pub mod modules;
pub mod random;
pub mod timers;
