//! `wasi:http`, as far as it is ours: a response of 0.3 is whole when its body is, a request without
//! a path asks for the root, and errors of bodies have their codes.

use http::Response;
use http::uri::PathAndQuery;
use wasmtime::component::{Access, Accessor, FutureAny, FutureReader, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::p2::IoError;
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler;
use wasmtime_wasi_http::p2::bindings::http::types::{self as p2, RequestOptions};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::p3::bindings::http::client::HostWithStore;
use wasmtime_wasi_http::p3::bindings::http::types::{ErrorCode, Fields, HostResponseWithStore};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttp, WasiHttpView, p3};

use crate::sandbox::outbound_http;
use crate::sandbox::state::State;

/// The head of a response with the body that follows, or `wasi:http`'s name of
/// an error.
pub(crate) type Head = Result<Response<WasiBody>, String>;

/// Takes the place of wasmtime's functions.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = add(linker, is_concurrent);
    linker.allow_shadowing(false);
    added
}

fn add(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    linker.instance("wasi:http/types@0.2.12")?.func_wrap("http-error-code", error_code)?;
    linker.instance("wasi:http/outgoing-handler@0.2.12")?.func_wrap("handle", handle)?;
    if is_concurrent {
        linker.instance("wasi:http/types@0.3.0")?.func_wrap("[static]response.new", new_response)?;
        linker.instance("wasi:http/client@0.3.0")?.func_wrap_concurrent(
            "send",
            |accessor: &Accessor<State>, (request,): (Resource<p3::Request>,)| {
                Box::pin(async move { Ok((send(accessor, request).await?,)) })
            },
        )?;
    }
    Ok(())
}

/// As wasmtime's, which finds none in errors of bodies.
fn error_code(
    mut store: StoreContextMut<'_, State>,
    (error,): (Resource<IoError>,),
) -> wasmtime::Result<(Option<p2::ErrorCode>,)> {
    let error = store.data_mut().table().get(&error)?;
    let of_body = || error.downcast_ref::<Error>().and_then(outbound_http::code_of_body);
    Ok((error.downcast_ref::<p2::ErrorCode>().cloned().or_else(of_body),))
}

type Asked = (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>);

/// An empty path is sent as this (RFC 9112, 3.2.1). wasmtime takes it for none.
const ROOT: &str = "/";

fn handle(
    mut store: StoreContextMut<'_, State>,
    (request, options): Asked,
) -> wasmtime::Result<(Result<Resource<HostFutureIncomingResponse>, p2::ErrorCode>,)> {
    let asked = store.data_mut().table().get_mut(&request)?;
    asked.path_with_query.get_or_insert_with(|| ROOT.to_owned());
    Ok((match outgoing_handler::Host::handle(&mut store.data_mut().http(), request, options) {
        Ok(response) => Ok(response),
        Err(error) => Err(error.downcast()?),
    },))
}

async fn send(
    accessor: &Accessor<State>,
    request: Resource<p3::Request>,
) -> wasmtime::Result<Result<Resource<p3::Response>, ErrorCode>> {
    accessor.with(|mut store| -> wasmtime::Result<()> {
        let asked = store.get().table().get_mut(&request)?;
        asked.path_with_query.get_or_insert_with(|| PathAndQuery::from_static(ROOT));
        Ok(())
    })?;
    Ok(match WasiHttp::send(&accessor.with_getter::<WasiHttp>(State::http), request).await {
        Ok(response) => Ok(response),
        Err(error) => Err(error.downcast()?),
    })
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
