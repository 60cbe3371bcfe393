//! Asks other servers. The host has TLS, and decides who may be asked.

use std::io::Read;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, IncomingResponse, OutgoingBody, OutgoingRequest, Scheme};

/// What is read of an answer.
const BYTES_MAX: u64 = 1 << 20;

/// The status of the answer, and its body.
pub fn get(url: &str) -> Result<String, String> {
    let response = send(request(url).ok_or("the URL is malformed")?)?;
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut text = String::new();
    let read = stream.take(BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    Ok(format!("{} {text}", response.status()))
}

fn request(url: &str) -> Option<OutgoingRequest> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(target)).ok()?;
    Some(request)
}

fn send(request: OutgoingRequest) -> Result<IncomingResponse, String> {
    let body = request.body().expect("the body is taken once");
    let response = outgoing_handler::handle(request, None).map_err(|code| code.to_string())?;
    OutgoingBody::finish(body, None).map_err(|code| code.to_string())?;
    response.subscribe().block();
    let response = response.get().expect("it is there").expect("it is taken once");
    response.map_err(|code| code.to_string())
}
