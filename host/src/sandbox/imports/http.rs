//! `wasi:http`, as far as it is our own decision: outbound requests are denied,
//! chunks of a body have a size, some fields are not a guest's, and a response of 0.3 is
//! whole when its body is.

use std::sync::{Arc, LazyLock};

use http::{HeaderName, Request, Response, header};
use parking_lot::Mutex;
use wasmtime::component::{Access, FutureAny, FutureReader, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::http::types::{ErrorCode, Fields, HostResponseWithStore};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttp,
    WasiHttpHooks, WasiHttpView,
};

use crate::sandbox::state::State;
use crate::telemetry::log::Log;

/// A guest may write this much of a body in one call; the host holds two such
/// chunks for each response at most.
const BODY_CHUNK_BYTES_MAX: usize = 64 << 10;

/// Whether a field is about one connection, or about the host of a request, and so not a
/// gateway's to set. `wasi:http` leaves two of these to its guests, which have trailers.
pub fn is_of_the_connection(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name) || *name == header::TE || *name == header::TRAILER
}

/// Fields that programs and applications set though they are not theirs. By `wasi:http` the
/// guest gets an error instead.
pub struct LeftOut {
    log: Log,
    told: Mutex<Vec<HeaderName>>,
}

impl LeftOut {
    pub fn new(log: Log) -> LeftOut {
        LeftOut { log, told: Mutex::default() }
    }

    /// Says it in the log, of each name once: it is likely to be in every response.
    pub fn note(&self, name: &HeaderName) {
        let mut told = self.told.lock();
        if !told.contains(name) {
            told.push(name.clone());
            self.log.server(format_args!(
                "the guest sets the field `{name}`, which belongs to the connection: it is left out (said once)"
            ));
        }
    }
}

/// Takes the place of wasmtime's function.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let defined = linker
        .instance("wasi:http/types@0.3.0")
        .and_then(|mut types| types.func_wrap("[static]response.new", new_response));
    linker.allow_shadowing(false);
    defined
}

type Trailers = FutureReader<Result<Option<Resource<Fields>>, ErrorCode>>;
type NewResponse = (Resource<p3::Response>, FutureReader<Result<(), ErrorCode>>);

/// As wasmtime's, but that the trailers can be ended by `end_trailers`.
fn new_response(
    mut store: StoreContextMut<'_, State>,
    (headers, contents, trailers): (Resource<Fields>, Option<StreamReader<u8>>, Trailers),
) -> wasmtime::Result<(NewResponse,)> {
    let trailers = FutureAny::try_from_future_reader(&mut store, trailers)?;
    store.data_mut().trailers = Some(trailers.clone());
    let trailers = trailers.try_into_future_reader()?;
    let access = Access::<State, WasiHttp>::new(store, State::http);
    Ok((WasiHttp::new(access, headers, contents, trailers)?,))
}

/// Ends the trailers of the response that was made last, if the guest has not. A guest that
/// failed, or whose time is over, never will; and if it has ended the body before, that is the
/// end of the response. One whose body has no end shows none by this either.
pub fn end_trailers(mut store: impl AsContextMut<Data = State>) {
    let trailers = store.as_context_mut().data_mut().trailers.take();
    // It is an error if they are over.
    let _ = trailers.map(|mut trailers| trailers.close(store));
}

/// The hooks of every instance; they have no state.
pub struct Hooks;

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
