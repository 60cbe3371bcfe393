//! The names of our own interfaces, as guests import and export them, and the folder `wit`,
//! which says what they are.

use include_dir::{Dir, include_dir};

pub(crate) static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../wit");

/// Components import it, to schedule deferred calls.
pub(crate) const TIMERS: &str = "wasm-serve:deferred/timers@0.1.0";
/// The module from which core modules import the same.
pub(crate) const TIMERS_MODULE: &str = "wasm_serve";
pub(crate) const CALL_LATER: &str = "call_later";

/// Guests export one of these, to run them.
pub(crate) const CALLBACK: &str = "wasm-serve:deferred/callback@0.1.0";
pub(crate) const CALLBACK_ASYNC: &str = "wasm-serve:deferred/callback-async@0.1.0";

/// Imported by adapters of languages, for a whole request in one call.
pub(crate) const GATEWAY: &str = "wasm-serve:gateway/host@0.2.0";

/// Imported by the same, for TLS over sockets.
pub(crate) const TLS: &str = "wasm-serve:gateway/tls@0.2.0";

/// What imports of key-value stores begin with.
pub(crate) const KEYVALUE: &str = "wasi:keyvalue/";

/// Values by their names, as guests import them: it had other names before.
pub(crate) const CONFIG: [&str; 4] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/runtime@0.2.0-draft",
];
