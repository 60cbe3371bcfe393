//! Sends one request as it is told, and tells what came of it, line by line: for tests of
//! `wasi:http`. The fields of its own request say what to send.
//!
//! `x-url`, `x-method`; `x-field`, `x-trailer`: a `name: value`, any number; `x-body`: lengths of
//! pieces, such as `5,5`; `x-times`: three numbers of milliseconds. `x-end` is what becomes of the
//! bodies: `drop` drops the outgoing one without an end, `leave` does not read the incoming one.
//! `x-many` is how many such requests are under way at once.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::http_error_code;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{OutputStream, StreamError};

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let (fields, mut told) = (request.headers(), Vec::new());
        let many = text(&fields, "x-many").parse().unwrap_or(1);
        let begun: Vec<_> = (0..many).map(|_| begin(&fields, &mut told)).collect();
        for begun in begun.into_iter().flatten() {
            if let Err(code) = finish(&fields, begun, &mut told) {
                told.push(format!("error {code:?}"));
            }
        }
        let answer = OutgoingResponse::new(Fields::new());
        let body = answer.body().expect("the body is taken once");
        let mut stream = body.write().expect("the stream is taken once");
        ResponseOutparam::set(response_out, Ok(answer));
        let _ = stream.write_all(told.join("\n").as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

/// A request is under way; its body is to be written.
type Begun = (FutureIncomingResponse, Option<OutgoingBody>);

/// None if it cannot be sent, which is told.
fn begin(fields: &Fields, told: &mut Vec<String>) -> Option<Begun> {
    let url = text(fields, "x-url");
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let asked = OutgoingRequest::new(pairs(fields, "x-field", told));
    let scheme = match scheme {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => Some(Scheme::Other(other.to_owned())),
    };
    let set = [
        ("method", asked.set_method(&method(text(fields, "x-method")))),
        ("scheme", asked.set_scheme(scheme.as_ref())),
        ("authority", asked.set_authority(Some(authority).filter(|authority| !authority.is_empty()))),
        ("path", asked.set_path_with_query(Some(path).filter(|path| !path.is_empty()))),
    ];
    told.extend(set.iter().filter(|(_, set)| set.is_err()).map(|(what, _)| format!("refused {what}")));
    if set.iter().any(|(_, set)| set.is_err()) {
        return None;
    }
    let body = fields.has("x-body").then(|| asked.body().expect("the body is taken once"));
    match outgoing_handler::handle(asked, Some(options(&text(fields, "x-times")))) {
        Ok(response) => Some((response, body)),
        Err(code) => {
            told.push(format!("error {code:?}"));
            None
        }
    }
}

fn finish(fields: &Fields, (future, body): Begun, told: &mut Vec<String>) -> Result<(), ErrorCode> {
    let end = text(fields, "x-end");
    if let Some(body) = body {
        let stream = body.write().expect("the stream is taken once");
        write(&stream, &text(fields, "x-body"), told);
        drop(stream);
        if end == "drop" {
            drop(body);
        } else {
            let trailers = fields.has("x-trailer").then(|| pairs(fields, "x-trailer", told));
            if let Err(code) = OutgoingBody::finish(body, trailers) {
                told.push(format!("finish {code:?}"));
            }
        }
    }
    future.subscribe().block();
    let response = future.get().expect("it is there").expect("it is taken once")?;
    told.push(format!("status {}", response.status()));
    told.extend(lines("field", &response.headers()));
    if end != "leave" {
        read(&response, told)?;
    }
    Ok(())
}

fn write(stream: &OutputStream, lengths: &str, told: &mut Vec<String>) {
    for length in lengths.split(',').filter_map(|length| length.parse().ok()) {
        let mut piece = &*vec![b'x'; length];
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(4096));
            if let Err(error) = stream.blocking_write_and_flush(now) {
                return told.push(format!("write {}", failed(&error)));
            }
            piece = later;
        }
    }
}

fn read(response: &IncomingResponse, told: &mut Vec<String>) -> Result<(), ErrorCode> {
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut bytes = 0;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => bytes += piece.len(),
            Err(StreamError::Closed) => break,
            Err(error) => {
                told.push(format!("body {bytes} then {}", failed(&error)));
                return Ok(());
            }
        }
    }
    told.push(format!("body {bytes}"));
    drop(stream);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    if let Some(trailers) = trailers.get().expect("they are there").expect("they are taken once")? {
        told.extend(lines("trailer", &trailers));
    }
    Ok(())
}

fn failed(error: &StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => match http_error_code(error) {
            Some(code) => format!("{code:?}"),
            None => error.to_debug_string(),
        },
    }
}

fn lines(what: &str, fields: &Fields) -> Vec<String> {
    let lines = fields.entries().into_iter();
    lines.map(|(name, value)| format!("{what} {name}: {}", String::from_utf8_lossy(&value))).collect()
}

/// The fields that one of this name lists. Those that are refused are told.
fn pairs(fields: &Fields, name: &str, told: &mut Vec<String>) -> Fields {
    let pairs = Fields::new();
    for value in fields.get(name) {
        let value = String::from_utf8_lossy(&value).into_owned();
        let (name, value) = value.split_once(": ").unwrap_or((&value, ""));
        if let Err(error) = pairs.append(name, value.as_bytes()) {
            told.push(format!("refused {name} {error:?}"));
        }
    }
    pairs
}

fn method(name: String) -> Method {
    match name.as_str() {
        "" | "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        _ => Method::Other(name),
    }
}

fn options(text: &str) -> RequestOptions {
    let options = RequestOptions::new();
    let mut times = text.split(' ').map(|time| time.parse().ok().map(|time: u64| time * 1_000_000));
    let set = options.set_connect_timeout(times.next().flatten());
    let set = set.and_then(|()| options.set_first_byte_timeout(times.next().flatten()));
    set.and_then(|()| options.set_between_bytes_timeout(times.next().flatten()))
        .expect("the server has them");
    options
}

fn text(fields: &Fields, name: &str) -> String {
    let values = fields.get(name);
    String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned()
}
