//! Answers `Hello World` at once and reads a file five seconds later, in a
//! deferred call that logs one line `k:v` for each line of the file. Tests
//! choose another delay with `?delay-ms=N` and cancel with `/cancel/ID`.

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use exports::wasm_serve::deferred::callback;
use wasm_serve::deferred::timers;
use wasm_serve::deferred::types::{DeferredCall, ScheduleError};

// Only our own interfaces: the crate wasip2 has the rest of the world.
wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guest:deferred;
        world guest {
            import wasm-serve:deferred/timers@0.1.0;
            export wasm-serve:deferred/callback@0.1.0;
        }
    ",
    generate_all,
});

struct Deferred;

export!(Deferred);
wasip2::http::proxy::export!(Deferred);

const FILE: &str = "numbers.txt";
const DELAY_DEFAULT: Duration = Duration::from_secs(5);

impl wasip2::exports::http::incoming_handler::Guest for Deferred {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path.strip_prefix("/cancel/") {
            Some(id) => cancel(id, response_out),
            None => schedule(query, response_out),
        }
    }
}

fn schedule(query: &str, response_out: ResponseOutparam) {
    let Some(delay) = delay(query) else {
        return respond(response_out, 400, None, "delay-ms is not a whole number");
    };
    // A delay beyond what fits is beyond every limit too, and the host says so.
    let nanoseconds = delay.as_nanos().try_into().unwrap_or(u64::MAX);
    match timers::call_later(nanoseconds, FILE.as_bytes()) {
        Ok(id) => respond(response_out, 200, Some(id), "Hello World"),
        Err(error) => respond(response_out, 503, None, &describe(error)),
    }
}

/// The delay that the query asks for, or `None` if it makes no sense.
fn delay(query: &str) -> Option<Duration> {
    let mut parameters = query.split('&');
    match parameters.find_map(|parameter| parameter.strip_prefix("delay-ms=")) {
        Some(milliseconds) => milliseconds.parse().ok().map(Duration::from_millis),
        None => Some(DELAY_DEFAULT),
    }
}

fn describe(error: ScheduleError) -> String {
    match error {
        ScheduleError::PayloadTooLarge(limit) => format!("payload-too-large {limit}"),
        ScheduleError::TooManyPending(limit) => format!("too-many-pending {limit}"),
        ScheduleError::DelayTooLong(limit) => format!("delay-too-long {limit}"),
        ScheduleError::Unavailable(reason) => format!("unavailable {reason}"),
    }
}

fn cancel(id: &str, response_out: ResponseOutparam) {
    match id.parse() {
        Ok(id) => respond(response_out, 200, None, &timers::cancel(id).to_string()),
        Err(_) => respond(response_out, 400, None, "the id is not a number"),
    }
}

impl callback::Guest for Deferred {
    fn run(call: DeferredCall) -> Result<(), String> {
        let path = String::from_utf8(call.payload).map_err(|error| error.to_string())?;
        log_lines(&path).map_err(|error| format!("{path}: {error}"))
    }
}

/// Logs `k:v` for line number k, from 0, with the text v. It writes all lines at
/// once: standard output is the server's log, and a write is a call into it.
fn log_lines(path: &str) -> io::Result<()> {
    let mut log = Vec::new();
    for (k, v) in fs::read_to_string(path)?.lines().enumerate() {
        writeln!(log, "{k}:{v}")?;
    }
    io::stdout().write_all(&log)
}

fn respond(response_out: ResponseOutparam, status: u16, timer: Option<u64>, text: &str) {
    let mut headers = vec![
        ("content-type".to_owned(), b"text/html".to_vec()),
        ("content-length".to_owned(), text.len().to_string().into()),
    ];
    headers.extend(timer.map(|id| ("timer-id".to_owned(), id.to_string().into())));
    let headers = Fields::from_list(&headers).expect("these headers are well-formed and allowed");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("the status exists");
    let body = response.body().expect("the body is taken once");
    let mut stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(response));

    // An error means that the client is gone: nobody is left to tell.
    let _ = stream.write_all(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
