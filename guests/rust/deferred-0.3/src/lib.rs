//! Answers `Hello World` at once and reads a file five seconds later, in a
//! deferred call that logs one line `k:v` for each line of the file. Tests
//! choose another delay with `?delay-ms=N` and cancel with `/cancel/ID`.

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

use exports::wasm_serve::deferred::callback_async;
use wasm_serve::deferred::timers;
use wasm_serve::deferred::types::{DeferredCall, ScheduleError};

// Only our own interfaces: the crate wasip3 has the rest of the world.
wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guest:deferred;
        world guest {
            import wasm-serve:deferred/timers@0.1.0;
            export wasm-serve:deferred/callback-async@0.1.0;
        }
    ",
    generate_all,
});

struct Deferred;

export!(Deferred);
wasip3::http::service::export!(Deferred);

const FILE: &str = "numbers.txt";
const DELAY_DEFAULT: Duration = Duration::from_secs(5);

impl wasip3::exports::http::handler::Guest for Deferred {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path.strip_prefix("/cancel/") {
            Some(id) => cancel(id),
            None => schedule(query),
        })
    }
}

fn schedule(query: &str) -> Response {
    let Some(delay) = delay(query) else {
        return respond(400, None, "delay-ms is not a whole number".into());
    };
    // A delay beyond what fits is beyond every limit too, and the host says so.
    let nanoseconds = delay.as_nanos().try_into().unwrap_or(u64::MAX);
    match timers::call_later(nanoseconds, FILE.as_bytes()) {
        Ok(id) => respond(200, Some(id), "Hello World".into()),
        Err(error) => respond(503, None, describe(error)),
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

fn cancel(id: &str) -> Response {
    match id.parse() {
        Ok(id) => respond(200, None, timers::cancel(id).to_string()),
        Err(_) => respond(400, None, "the id is not a number".into()),
    }
}

impl callback_async::Guest for Deferred {
    async fn run(call: DeferredCall) -> Result<(), String> {
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

fn respond(status: u16, timer: Option<u64>, text: String) -> Response {
    let mut headers = vec![
        ("content-type".to_owned(), b"text/html".to_vec()),
        ("content-length".to_owned(), text.len().to_string().into()),
    ];
    headers.extend(timer.map(|id| ("timer-id".to_owned(), id.to_string().into())));
    let headers = Fields::from_list(&headers).expect("these headers are well-formed and allowed");
    let (mut body, body_reader) = wit_stream::new();
    // Nobody writes to this future, so it resolves to no trailers.
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(body_reader), no_trailers);
    response.set_status_code(status).expect("the status exists");

    // The body is read only after the response has been returned. What remains
    // unwritten is what a client that is gone will not get.
    spawn_local(async move {
        let _ = body.write_all(text.into_bytes()).await;
    });
    response
}
