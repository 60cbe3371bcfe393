//! An application for wasm-serve: one small route for each thing that a guest can do.

mod fetch;
mod query;

use std::fs;
use std::io::{self, Write};

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

use exports::wasm_serve::deferred::callback;
use query::Query;
use wasm_serve::deferred::timers;
use wasm_serve::deferred::types::{DeferredCall, ScheduleError};

// Only our own interfaces: the crate wasip2 has the rest of the world.
wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guest:app;
        world guest {
            import wasm-serve:deferred/timers@0.1.0;
            export wasm-serve:deferred/callback@0.1.0;
        }
    ",
    generate_all,
});

struct App;

export!(App);
wasip2::http::proxy::export!(App);

const DELAY_DEFAULT_MS: u64 = 5000;
const NANOSECONDS_PER_MS: u64 = 1_000_000;
/// A limit, not a size: a piece is as long as what has arrived.
const PIECE_BYTES_MAX: u64 = 1 << 20;

type Fieldset = Vec<(String, Vec<u8>)>;

/// A status with a text: a response, or the reason why there is no other.
struct Text(u16, String);

impl wasip2::exports::http::incoming_handler::Guest for App {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query::new(query);
        let text = match path {
            "/" => Text(200, "Hello World".to_owned()),
            "/echo" => return echo(&request, response_out),
            "/status" => match status(&query) {
                Ok((code, fields)) => return answer_status(code, &fields, response_out),
                Err(text) => text,
            },
            "/file" => file(&query),
            "/fetch" => match fetch::get(query.text("url")) {
                Ok(answer) => Text(200, answer),
                Err(error) => Text(502, error),
            },
            "/later" => later(&query).unwrap_or_else(|text| text),
            "/cancel" => cancel(&query).unwrap_or_else(|text| text),
            "/log" => log(&query),
            "/trap" => panic!("asked to die"),
            _ => Text(404, "not found".to_owned()),
        };
        let fields = [("content-type".to_owned(), b"text/plain".to_vec())];
        let response = response(text.0, &fields).expect("this head is well-formed and allowed");
        send(response, response_out, text.1.as_bytes());
    }
}

/// The host moves the pieces from one stream to the other, so no byte of the body
/// passes through the guest.
fn echo(request: &IncomingRequest, response_out: ResponseOutparam) {
    let kind = request.headers().get("content-type");
    let fields: Fieldset = kind.into_iter().map(|kind| ("content-type".to_owned(), kind)).collect();
    let response = response(200, &fields).expect("the client's own field is well-formed");
    let source = request.consume().expect("the body is taken once");
    let target = response.body().expect("the body is taken once");
    ResponseOutparam::set(response_out, Ok(response));
    // If the body broke off, the response is dropped unfinished, and so breaks off
    // too: the client would otherwise take what it got for the whole.
    if copy(&source, &target) {
        // An error means that the client is gone: nobody is left to tell.
        let _ = OutgoingBody::finish(target, None);
    }
}

/// True if that was the whole.
fn copy(source: &IncomingBody, target: &OutgoingBody) -> bool {
    let from = source.stream().expect("the stream is taken once");
    let to = target.write().expect("the stream is taken once");
    loop {
        match to.blocking_splice(&from, PIECE_BYTES_MAX) {
            Ok(_) => {}
            Err(StreamError::Closed) => return true,
            Err(StreamError::LastOperationFailed(_)) => return false,
        }
    }
}

fn status(query: &Query) -> Result<(u16, Fieldset), Text> {
    let code = query.number("code", None)?;
    let code = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    let code = code.ok_or_else(|| Text(400, "code is not a status from 200 to 599".to_owned()))?;
    let field = |line: &str| -> Result<(String, Vec<u8>), Text> {
        let (name, value) =
            line.split_once(':').ok_or_else(|| Text(400, "a header is NAME:VALUE".to_owned()))?;
        Ok((name.to_owned(), value.as_bytes().to_vec()))
    };
    let fields: Result<Fieldset, Text> = query.all("header").map(field).collect();
    Ok((code, fields?))
}

fn answer_status(code: u16, fields: &Fieldset, response_out: ResponseOutparam) {
    match response(code, fields) {
        Some(response) if [204, 304].contains(&code) => send(response, response_out, b""),
        Some(response) => send(response, response_out, code.to_string().as_bytes()),
        None => {
            let response = response(400, &[]).expect("a head without fields");
            send(response, response_out, b"a header that is malformed, or not allowed");
        }
    }
}

fn file(query: &Query) -> Text {
    match fs::read_to_string(query.text("name")) {
        Ok(content) => Text(200, content),
        Err(error) => Text(404, error.to_string()),
    }
}

fn later(query: &Query) -> Result<Text, Text> {
    // A delay beyond what fits is beyond every limit too, and the host says so.
    let delay = query.number("delay-ms", Some(DELAY_DEFAULT_MS))?.saturating_mul(NANOSECONDS_PER_MS);
    let count = query.number("count", Some(1))?;
    let payload = match query.has("size") {
        true => vec![b'x'; query.number("size", None)? as usize],
        false => query.text("text").into(),
    };
    let mut id = 0;
    for _ in 0..count {
        id = timers::call_later(delay, &payload).map_err(|error| Text(503, describe(error)))?;
    }
    Ok(Text(200, id.to_string()))
}

fn describe(error: ScheduleError) -> String {
    match error {
        ScheduleError::PayloadTooLarge(limit) => format!("payload-too-large {limit}"),
        ScheduleError::TooManyPending(limit) => format!("too-many-pending {limit}"),
        ScheduleError::DelayTooLong(limit) => format!("delay-too-long {limit}"),
        ScheduleError::Unavailable(reason) => format!("unavailable {reason}"),
    }
}

fn cancel(query: &Query) -> Result<Text, Text> {
    Ok(Text(200, timers::cancel(query.number("id", None)?).to_string()))
}

fn log(query: &Query) -> Text {
    println!("out {}", query.text("text"));
    eprintln!("err {}", query.text("text"));
    Text(200, "logged".to_owned())
}

impl callback::Guest for App {
    fn run(call: DeferredCall) -> Result<(), String> {
        let payload = String::from_utf8(call.payload).map_err(|error| error.to_string())?;
        println!("deferred {payload}");
        match payload.split_once(' ') {
            Some(("read", name)) => log_lines(name).map_err(|error| format!("{name}: {error}")),
            Some(("fetch", url)) => fetch::get(url).map(|answer| println!("fetched {answer}")),
            _ if payload == "fail" => Err("asked to fail".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Logs `k:LINE` for line number k, from 0. It writes all lines at once: standard
/// output is the server's log, and a write is a call into it.
fn log_lines(name: &str) -> io::Result<()> {
    let mut log = Vec::new();
    for (k, line) in fs::read_to_string(name)?.lines().enumerate() {
        writeln!(log, "{k}:{line}")?;
    }
    io::stdout().write_all(&log)
}

/// None if a field is malformed, or is the server's own.
fn response(status: u16, fields: &[(String, Vec<u8>)]) -> Option<OutgoingResponse> {
    let response = OutgoingResponse::new(Fields::from_list(fields).ok()?);
    response.set_status_code(status).ok()?;
    Some(response)
}

fn send(response: OutgoingResponse, response_out: ResponseOutparam, text: &[u8]) {
    let body = response.body().expect("the body is taken once");
    let mut stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(response));
    // An error means that the client is gone: nobody is left to tell.
    let _ = stream.write_all(text);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
