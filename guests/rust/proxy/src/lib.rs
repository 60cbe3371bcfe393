//! Sends the request on to the URL that its field `x-upstream` has, and the response back. The
//! server moves the pieces of both bodies, so no byte of them passes through the guest. The name
//! of what went wrong is the text of a 502.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

struct Proxy;

wasip2::http::proxy::export!(Proxy);

/// A limit, not a size: a piece is as long as what has arrived.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// What is of the first of two exchanges alone, beside what the server sees to.
const LEFT_OUT: [&str; 3] = ["x-upstream", "x-timeouts", "host"];

impl Guest for Proxy {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        match ask(request) {
            Ok(response) => pass_back(response, response_out),
            Err(code) => refuse(response_out, &code),
        }
    }
}

fn ask(request: IncomingRequest) -> Result<IncomingResponse, ErrorCode> {
    let fields = request.headers();
    let url = text(&fields, "x-upstream");
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let asked = OutgoingRequest::new(copied(&fields));
    let set = asked.set_method(&request.method()).and_then(|()| asked.set_scheme(Some(&scheme)));
    let set = set.and_then(|()| asked.set_authority(Some(authority)));
    set.and_then(|()| asked.set_path_with_query(Some(path)))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let body = asked.body().expect("the body is taken once");
    let response = outgoing_handler::handle(asked, Some(options(&text(&fields, "x-timeouts"))))?;
    // If the upstream takes no more of it, it says why in its response.
    if copy(request.consume().expect("the body is taken once"), &body) {
        let _ = OutgoingBody::finish(body, None);
    }
    response.subscribe().block();
    response.get().expect("it is there").expect("it is taken once")
}

/// Three numbers of milliseconds, if any: to connect, for the first byte, and between bytes.
fn options(text: &str) -> RequestOptions {
    let options = RequestOptions::new();
    let mut times = text.split(' ').map(|time| time.parse().ok().map(|time: u64| time * 1_000_000));
    let set = options.set_connect_timeout(times.next().flatten());
    let set = set.and_then(|()| options.set_first_byte_timeout(times.next().flatten()));
    set.and_then(|()| options.set_between_bytes_timeout(times.next().flatten()))
        .expect("the server has them");
    options
}

fn pass_back(response: IncomingResponse, response_out: ResponseOutparam) {
    let answer = OutgoingResponse::new(copied(&response.headers()));
    answer.set_status_code(response.status()).expect("the status exists");
    let target = answer.body().expect("the body is taken once");
    ResponseOutparam::set(response_out, Ok(answer));
    // A body that broke off does so here, too.
    if copy(response.consume().expect("the body is taken once"), &target) {
        let _ = OutgoingBody::finish(target, None);
    }
}

fn refuse(response_out: ResponseOutparam, code: &ErrorCode) {
    let answer = OutgoingResponse::new(Fields::new());
    answer.set_status_code(502).expect("the status exists");
    let body = answer.body().expect("the body is taken once");
    let mut stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(answer));
    let _ = write!(stream, "{code:?}");
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Whether all of it was copied.
fn copy(source: IncomingBody, target: &OutgoingBody) -> bool {
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

fn text(fields: &Fields, name: &str) -> String {
    let values = fields.get(name);
    String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned()
}

fn copied(fields: &Fields) -> Fields {
    let copied = Fields::new();
    for (name, value) in fields.entries() {
        if !LEFT_OUT.contains(&name.as_str()) {
            // What is about the connection is the server's, and so is the host.
            let name = if name == "x-host" { "host" } else { &name };
            let _ = copied.append(name, &value);
        }
    }
    copied
}
