//! Reads a file and logs one line `k:v` for each of its lines before it answers
//! `Hello World`. The standard library reads and logs through WASI 0.2 even in
//! a guest for `wasi:http` 0.3, so nothing else runs in this instance meanwhile.

use std::fs;
use std::io::{self, Write};

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Blocking;

wasip3::http::service::export!(Blocking);

const FILE: &str = "numbers.txt";

impl Guest for Blocking {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        Ok(match log_lines(FILE) {
            Ok(()) => respond(200, "Hello World".into()),
            Err(error) => {
                let reason = format!("{FILE}: {error}");
                eprintln!("{reason}");
                respond(500, reason)
            }
        })
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

fn respond(status: u16, text: String) -> Response {
    let headers = Fields::from_list(&[
        ("content-type".into(), b"text/html".into()),
        ("content-length".into(), text.len().to_string().into()),
    ])
    .expect("these headers are well-formed and allowed");
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
