//! What guests may do by `wasi:http`, as far as it is our decision: where outbound requests
//! may go, what size chunks of a body have, and which fields are not a guest's.

use std::sync::{Arc, LazyLock};

use http::{HeaderName, Request, Response};
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use super::host::Host;
use super::outbound_http;
use crate::outbound::failure::Failure;
use crate::outbound::sent::Cut;
use crate::outbound::{connect, permits};

/// A guest may write this much of a body in one call; the host holds two such
/// chunks for each response at most.
const BODY_CHUNK_BYTES_MAX: usize = 256 << 10;

/// The hooks of one instance.
pub(crate) struct Hooks {
    server: Arc<Host>,
    /// One for each further request that the instance may begin; made for the first one.
    requests: Option<Arc<Semaphore>>,
    /// Of the call that is under way; made for its first request.
    cut: Option<Cut>,
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.cut.iter().for_each(Cut::set);
    }
}

impl Hooks {
    pub(crate) fn new(server: Arc<Host>) -> Hooks {
        Hooks { server, requests: None, cut: None }
    }

    /// The call has ended well: what it has sent is whole.
    pub(crate) fn end_call(&mut self) {
        self.cut = None;
    }
}

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
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let outbound = &self.server.outbound;
        let Some(client) = &self.server.http_client else {
            let refused = connect::destination(request.uri()).and_then(|(to, _)| outbound.check(&to));
            let failure = refused.err().unwrap_or(Failure::Denied);
            return Box::new(async { Err(outbound_http::error(failure)) });
        };
        let limits = outbound.limits();
        let requests = self.requests.get_or_insert_with(|| permits::semaphore(limits.requests_of_one_max));
        let (options, cut) = (options.unwrap_or_default(), self.cut.get_or_insert_default().clone());
        Box::new(outbound_http::send(client, request, options, limits.times, requests, cut))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}
