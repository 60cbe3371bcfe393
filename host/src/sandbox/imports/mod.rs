//! What the host offers to guests, a file an interface.

pub(crate) mod core_modules;
pub(crate) mod files;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod keyvalue;
pub(crate) mod named_values;
pub(crate) mod random;
pub(crate) mod sockets;
pub(crate) mod timers;
pub(crate) mod tls;
