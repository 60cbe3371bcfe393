//! `wasm-serve:gateway/http`: a request's head and a whole response in one call each.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, WasmList, WasmStr};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::HostResponseOutparam;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, WasiHttpView};

use crate::error::Failure;
use crate::state::State;

/// The name under which guests import it.
pub const INTERFACE: &str = "wasm-serve:gateway/http@0.1.0";

/// A larger body is written in pieces, by which a client that is slow holds up the
/// guest, and not the host's memory.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a response's head, as many as `wasi:http` takes.
const HEAD_BYTES_MAX: usize = 128 << 10;

pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut gateway = linker.instance(INTERFACE)?;
    gateway.func_wrap("request", |store: StoreContextMut<'_, State>, ()| {
        Ok((store.data().request.variables.clone(),))
    })?;
    gateway.func_wrap("respond", |store, (to, head, body)| respond(store, to, head, body))?;
    Ok(())
}

fn respond(
    mut store: StoreContextMut<'_, State>,
    to: Resource<HostResponseOutparam>,
    head: WasmStr,
    body: WasmList<u8>,
) -> wasmtime::Result<(Result<(), String>,)> {
    let has_body = !store.data().request.is_head;
    let response = response(&head.to_str(&store)?, body.as_le_slice(&store), has_body);
    let outparam = store.data_mut().http().table.delete(to)?;
    match response {
        Ok(response) => {
            (outparam.send)(Ok(response));
            Ok((Ok(()),))
        }
        Err(wrong) => {
            (outparam.send)(Ok(Failure::NoResponse.response::<String>().map(whole)));
            Ok((Err(wrong),))
        }
    }
}

fn whole(body: impl Into<Bytes>) -> HyperOutgoingBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The error says what is wrong with it.
fn response(head: &str, body: &[u8], has_body: bool) -> Result<Response<HyperOutgoingBody>, String> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(format!("a head of over {HEAD_BYTES_MAX} bytes"));
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(format!("a body of over {BODY_BYTES_MAX} bytes must be written in pieces"));
    }
    let parts = parse(head)?;
    let has_body = has_body && ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status);
    let body_bytes = has_body.then_some(body.len());
    check_length(&parts.headers, body_bytes)?;
    Ok(Response::from_parts(parts, whole(Bytes::copy_from_slice(body))))
}

/// Reads a head. The error says what is wrong with it.
fn parse(head: &str) -> Result<http::response::Parts, String> {
    let mut lines = head.split('\n');
    let first = lines.next().unwrap_or_default();
    let status =
        StatusCode::from_bytes(first.as_bytes()).map_err(|_| format!("{first:?} is not a status"))?;
    let mut headers = HeaderMap::new();
    while let Some(name) = lines.next() {
        let value = lines.next().ok_or_else(|| format!("the field {name:?} has no value"))?;
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not the name of a field"))?;
        // Those belong to the server.
        if DEFAULT_FORBIDDEN_HEADERS.contains(&field) {
            continue;
        }
        headers.append(
            field,
            value_of(value).ok_or_else(|| format!("{name}: {value:?} is not the value of a field"))?,
        );
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    Ok(parts)
}

/// A value's characters are its bytes.
fn value_of(text: &str) -> Option<HeaderValue> {
    if text.is_ascii() {
        return HeaderValue::from_str(text).ok();
    }
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

/// One length at most (RFC 9110, 8.6), that of the body. A response to HEAD, and one that
/// says that nothing has changed, may have the length of a body that it does not have.
fn check_length(headers: &HeaderMap, body_bytes: Option<usize>) -> Result<(), String> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let digits = length.to_str().ok().filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()));
    let said: Option<usize> = digits.and_then(|digits| digits.parse().ok());
    match (said, lengths.next(), body_bytes) {
        (None, _, _) | (_, Some(_), _) => Err("a malformed Content-Length".to_owned()),
        (Some(said), None, Some(bytes)) if said != bytes => {
            Err(format!("the body has {bytes} bytes, and its Content-Length says {said}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_as_it_is_or_not_at_all() {
        let parts =
            parse("404\nSet-Cookie\na=1\nset-cookie\nb=2\nX-Bytes\n\u{e9}\nConnection\nclose").unwrap();
        assert_eq!(parts.status, StatusCode::NOT_FOUND);
        let cookies: Vec<_> = parts.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(parts.headers["x-bytes"].as_bytes(), b"\xe9");
        assert!(!parts.headers.contains_key("connection"));
        for bad in [
            "",
            "99",
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
            assert!(response(bad, b"abc", true).is_err(), "{bad:?}");
        }
        assert!(response("200\ncontent-length\n4", b"", false).is_ok(), "as for HEAD");
        assert!(response("200\ncontent-length\nx", b"", false).is_err());
        assert!(response(&format!("200\nname\n{}", "x".repeat(HEAD_BYTES_MAX)), b"", true).is_err());
    }
}
