//! The head of the response that a program writes.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::sandbox::imports::gateway::{check_length, check_status};
use crate::sandbox::left_out::{LeftOut, is_of_the_connection};

/// Bytes of a response's head, as many as `wasi:http` takes.
pub(super) const HEAD_BYTES_MAX: usize = 128 << 10;

/// The head, if all of it is there: it is taken from `bytes`, in which its last line begins
/// at `line`, as far as it is written. The error says what is wrong with it.
pub(super) fn take(
    bytes: &mut BytesMut,
    line: &mut usize,
    left_out: &LeftOut,
) -> Option<Result<Response<()>, String>> {
    match end_of_head(bytes, line) {
        Some(end) if end <= HEAD_BYTES_MAX => Some(parse(&bytes.split_to(end), left_out)),
        None if bytes.len() <= HEAD_BYTES_MAX => None,
        _ => Some(Err(format!("the head of the response is longer than {HEAD_BYTES_MAX} bytes"))),
    }
}

/// The end of the empty line that ends a head. Lines end with a line feed, before which
/// a carriage return may be. The search goes on at `start`, where a line begins.
fn end_of_head(bytes: &[u8], start: &mut usize) -> Option<usize> {
    while let Some(length) = bytes[*start..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[*start..*start + length];
        *start += length + 1;
        if line.is_empty() || line == b"\r" {
            return Some(*start);
        }
    }
    None
}

/// Reads a head. The error says what is wrong with it.
fn parse(head: &[u8], left_out: &LeftOut) -> Result<Response<()>, String> {
    let mut status = None;
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let wrong = || format!("{:?} is not a line of a response's head", String::from_utf8_lossy(line));
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"status") {
            // A reason may follow, which HTTP/2 no longer has.
            let code = value.split(|byte| *byte == b' ').next().unwrap_or_default();
            status = Some(StatusCode::from_bytes(code).map_err(|_| wrong())?);
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
        if is_of_the_connection(&name) {
            left_out.note(&name);
        } else {
            headers.append(name, value);
        }
    }
    if status.is_none() && headers.is_empty() {
        return Err("the head of the response is empty".to_owned());
    }
    check_length(&headers, None)?;
    let redirects = headers.contains_key(header::LOCATION);
    let status = status.unwrap_or(if redirects { StatusCode::FOUND } else { StatusCode::OK });
    check_status(status)?;
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}
