//! What guests may do by `wasi:http`, as far as it is our decision: outbound requests are
//! denied, chunks of a body have a size, and some fields are not a guest's.

use std::sync::{Arc, LazyLock};

use http::{HeaderName, Request, Response, header};
use parking_lot::Mutex;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use crate::telemetry::log::Log;

/// A guest may write this much of a body in one call; the host holds two such
/// chunks for each response at most.
const BODY_CHUNK_BYTES_MAX: usize = 64 << 10;

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

/// The hooks of every instance; they have no state.
pub(crate) struct Hooks;

type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> =
            LazyLock::new(|| Arc::new(|name: &HeaderName| DEFAULT_FORBIDDEN_HEADERS.contains(name)));
        FILTER.clone()
    }

    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}
