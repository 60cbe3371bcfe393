//! Fields that programs and applications set though they are not theirs.

use http::{HeaderName, header};
use parking_lot::Mutex;
use wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;

use crate::telemetry::log::Log;

/// Whether a field is about one connection, or about the host of a request, and so not a
/// gateway's to set. `wasi:http` leaves two of these to its guests, which have trailers.
pub(crate) fn is_of_the_connection(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name) || *name == header::TE || *name == header::TRAILER
}

/// Fields that programs and applications set though they are not theirs. By `wasi:http` the
/// guest gets an error instead.
pub(crate) struct LeftOut {
    log: Log,
    told: Mutex<Vec<HeaderName>>,
}

impl LeftOut {
    pub(crate) fn new(log: Log) -> LeftOut {
        LeftOut { log, told: Mutex::default() }
    }

    /// Says it in the log, of each name once: it is likely to be in every response.
    pub(crate) fn note(&self, name: &HeaderName) {
        let mut told = self.told.lock();
        if !told.contains(name) {
            told.push(name.clone());
            self.log.server(format_args!(
                "the guest sets the field `{name}`, which belongs to the connection: it is left out (said once)"
            ));
        }
    }
}
