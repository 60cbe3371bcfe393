//! `wasm-serve:gateway/host`: what gateways such as WSGI's have beside `wasi:http`, in few
//! calls, and with texts whose characters are bytes in the place of lists.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, WasmStr};
use wasmtime_wasi::p2::{DynOutputStream, StreamError};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::HostResponseOutparam;
use wasmtime_wasi_http::{FieldMap, WasiHttpView};

use super::timers::{self, ScheduleError, When};
use crate::clock;
use crate::connection::framing::number;
use crate::contract::GATEWAY;
use crate::deferred::TimerId;
use crate::memory::account::OnNoAccount;
use crate::sandbox::left_out::{LeftOut, is_of_the_connection};
use crate::sandbox::state::State;
use crate::statuses::Failure;

/// A larger body is written in pieces, by which a client that is slow holds up the
/// guest, and not the host's memory.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a response's fields, as many as `wasi:http` takes.
const FIELDS_BYTES_MAX: usize = 128 << 10;

type Store<'a> = StoreContextMut<'a, State>;

pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut gateway = linker.instance(GATEWAY)?;
    gateway.func_wrap("request", |store: Store<'_>, ()| Ok((store.data().request.variables.clone(),)))?;
    gateway.func_wrap("respond", |store, (to, head, body)| Ok((respond(store, to, head, body)?,)))?;
    gateway.func_wrap("make-fields", |store, (text,)| Ok((fields(store, text)?,)))?;
    gateway.func_wrap("write", |store, (to, text)| Ok((write(store, to, text)?,)))?;
    gateway.func_wrap_async("call-later", |store, (delay, payload)| {
        Box::new(async move { Ok((schedule(store, When::After(delay), payload).await?,)) })
    })?;
    gateway.func_wrap_async("call-at", |store, (time, payload)| {
        let when = When::At(clock::at_unix(time));
        Box::new(async move { Ok((schedule(store, when, payload).await?,)) })
    })?;
    Ok(())
}

fn respond(
    mut store: Store<'_>,
    to: Resource<HostResponseOutparam>,
    head: WasmStr,
    body: WasmStr,
) -> wasmtime::Result<Result<(), String>> {
    let has_body = !store.data().request.is_head;
    let left_out = &store.data().server.left_out;
    let response = response(&head.to_str(&store)?, &body.to_str(&store)?, has_body, left_out);
    let outparam = store.data_mut().http().table.delete(to)?;
    match response {
        Ok(response) => {
            (outparam.send)(Ok(response));
            Ok(Ok(()))
        }
        Err(wrong) => {
            (outparam.send)(Ok(Failure::NoResponse.response::<String>().map(whole)));
            Ok(Err(wrong))
        }
    }
}

fn fields(mut store: Store<'_>, text: WasmStr) -> wasmtime::Result<Result<Resource<FieldMap>, String>> {
    let headers = match headers(&text.to_str(&store)?, &store.data().server.left_out) {
        Ok(headers) => headers,
        Err(wrong) => return Ok(Err(wrong)),
    };
    let http = store.data_mut().http();
    Ok(Ok(http.table.push(FieldMap::new_immutable(http.hooks, headers))?))
}

fn write(
    mut store: Store<'_>,
    to: Resource<DynOutputStream>,
    text: WasmStr,
) -> wasmtime::Result<Result<(), ()>> {
    let data = bytes_of(&text.to_str(&store)?).ok_or_else(no_byte)?;
    match store.data_mut().http().table.get_mut(&to)?.write(data.into()) {
        Ok(()) => Ok(Ok(())),
        Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => Ok(Err(())),
        Err(StreamError::Trap(error)) => Err(error),
    }
}

async fn schedule(
    mut store: Store<'_>,
    when: When,
    payload: WasmStr,
) -> wasmtime::Result<Result<TimerId, ScheduleError>> {
    let (bytes, payload) = {
        let text = payload.to_str(&store)?;
        let bytes = text.chars().count();
        let is_small = bytes as u64 <= store.data().server.payload_bytes_max;
        let _for_the_server = OnNoAccount::begin();
        (bytes, if is_small { bytes_of(&text).ok_or_else(no_byte)? } else { Vec::new() })
    };
    Ok(timers::schedule(&mut store, when, bytes, |_| payload.into()).await)
}

/// The guest breaks the contract of this interface.
pub(super) fn no_byte() -> wasmtime::Error {
    wasmtime::Error::msg("a text has a character that is no byte")
}

fn whole(body: impl Into<Bytes>) -> HyperOutgoingBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The error says what is wrong with it.
pub(crate) fn response(
    head: &str,
    body: &str,
    has_body: bool,
    left_out: &LeftOut,
) -> Result<Response<HyperOutgoingBody>, String> {
    let (status, fields) =
        head.split_once('\n').map_or((head, ""), |(status, _)| (status, &head[status.len()..]));
    let status =
        StatusCode::from_bytes(status.as_bytes()).map_err(|_| format!("{status:?} is not a status"))?;
    check_status(status)?;
    let headers = headers(fields, left_out)?;
    let body = bytes_of(body).ok_or("the body has a character that is no byte")?;
    if body.len() > BODY_BYTES_MAX {
        return Err(format!("a body of over {BODY_BYTES_MAX} bytes must be written in pieces"));
    }
    let has_body = has_body && ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    check_length(&headers, has_body.then_some(body.len() as u64))?;
    let mut response = Response::new(whole(body));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}

/// Reads fields. The error says what is wrong with them.
fn headers(text: &str, left_out: &LeftOut) -> Result<HeaderMap, String> {
    if text.len() > FIELDS_BYTES_MAX {
        return Err(format!("fields of over {FIELDS_BYTES_MAX} bytes"));
    }
    let mut lines = text.split('\n');
    if lines.next() != Some("") {
        return Err("a field does not begin with a line feed".to_owned());
    }
    let mut headers = HeaderMap::new();
    while let Some(name) = lines.next() {
        let value = lines.next().ok_or_else(|| format!("the field {name:?} has no value"))?;
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not the name of a field"))?;
        let bytes = bytes_of(value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        let value = bytes.ok_or_else(|| format!("{name}: {value:?} is not the value of a field"))?;
        if is_of_the_connection(&field) {
            left_out.note(&field);
        } else {
            headers.append(field, value);
        }
    }
    Ok(headers)
}

/// The bytes that a text's characters are.
pub(super) fn bytes_of(text: &str) -> Option<Vec<u8>> {
    if text.is_ascii() {
        return Some(text.as_bytes().to_vec());
    }
    text.chars().map(|c| u8::try_from(c).ok()).collect()
}

/// A response has a status of this range (RFC 9110, 15); those below are for what comes before
/// one, and to the others no client gives a meaning.
pub(crate) fn check_status(status: StatusCode) -> Result<(), String> {
    match status.as_u16() {
        200..=599 => Ok(()),
        _ => Err(format!("{status} is not the status of a response")),
    }
}

/// The length that a head says: one at most (RFC 9110, 8.6), that of the body. A response to
/// HEAD, and one that says that nothing has changed, may have the length of a body that it does
/// not have.
pub(crate) fn check_length(headers: &HeaderMap, body_bytes: Option<u64>) -> Result<Option<u64>, String> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    match (number(length.as_bytes()), lengths.next(), body_bytes) {
        (None, _, _) | (_, Some(_), _) => Err("a malformed Content-Length".to_owned()),
        (Some(said), None, Some(bytes)) if said != bytes => {
            Err(format!("the body has {bytes} bytes, and its Content-Length says {said}"))
        }
        (said, None, _) => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::Log;

    #[test]
    fn a_response_is_taken_as_it_is_or_not_at_all() {
        let log = Log::open(Some("/dev/null".as_ref()), Default::default()).unwrap();
        let left_out = LeftOut::new(log);
        let response = |head: &str, body: &str, has_body| response(head, body, has_body, &left_out);
        let head = "404\nSet-Cookie\na=1\nset-cookie\nb=2\nX-Bytes\n\u{e9}\nConnection\nclose";
        let good = response(head, "", true).unwrap();
        assert_eq!(good.status(), StatusCode::NOT_FOUND);
        let cookies: Vec<_> = good.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(good.headers()["x-bytes"].as_bytes(), b"\xe9");
        assert!(!good.headers().contains_key("connection"));
        assert!(response("200", "abc", true).is_ok(), "no fields");
        for bad in [
            "",
            "99",
            "101",
            "600",
            "999",
            "2000",
            "200 OK",
            "200\nname",
            "200\nna me\nx",
            "200\nname\nx\ry",
            "200\nname\n\u{100}",
            "200\ncontent-length\n4",
            "200\ncontent-length\n-3",
            "200\ncontent-length\n+3",
            "200\ncontent-length\n3\ncontent-length\n3",
        ] {
            assert!(response(bad, "abc", true).is_err(), "{bad:?}");
        }
        assert!(response("200\ncontent-length\n4", "", false).is_ok(), "as for HEAD");
        assert!(response("200\ncontent-length\nx", "", false).is_err());
        assert!(response(&format!("200\nname\n{}", "x".repeat(FIELDS_BYTES_MAX)), "", true).is_err());
        assert!(response("200", "\u{100}", true).is_err());
        assert!(response("200\ncontent-length\n1", "\u{ff}", true).is_ok(), "a character is a byte");
    }
}
