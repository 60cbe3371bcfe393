//! Reads a file and logs one line `k:v` for each of its lines before it answers
//! `Hello World`. It is the program to compare `deferred` with, which does the
//! same work after the answer.

use std::fs;
use std::io::{self, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Blocking;

wasip2::http::proxy::export!(Blocking);

const FILE: &str = "numbers.txt";

impl Guest for Blocking {
    fn handle(_request: IncomingRequest, response_out: ResponseOutparam) {
        match log_lines(FILE) {
            Ok(()) => respond(response_out, 200, "Hello World"),
            Err(error) => {
                let reason = format!("{FILE}: {error}");
                eprintln!("{reason}");
                respond(response_out, 500, &reason);
            }
        }
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

fn respond(response_out: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::from_list(&[
        ("content-type".into(), b"text/html".into()),
        ("content-length".into(), text.len().to_string().into()),
    ])
    .expect("these headers are well-formed and allowed");
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
