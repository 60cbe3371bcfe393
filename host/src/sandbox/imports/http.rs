//! `wasi:http`, as far as it is ours: a response of 0.3 is whole when its body is.

use http::Response;
use wasmtime::component::{Access, FutureAny, FutureReader, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi_http::p3::bindings::http::types::{ErrorCode, Fields, HostResponseWithStore};
use wasmtime_wasi_http::{WasiBody, WasiHttp, WasiHttpView, p3};

use crate::sandbox::state::State;

/// The head of a response with the body that follows, or `wasi:http`'s name of
/// an error.
pub(crate) type Head = Result<Response<WasiBody>, String>;

/// Takes the place of wasmtime's function.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
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
pub(crate) fn end_trailers(mut store: impl AsContextMut<Data = State>) {
    let trailers = store.as_context_mut().data_mut().trailers.take();
    // It is an error if they are over.
    let _ = trailers.map(|mut trailers| trailers.close(store));
}
