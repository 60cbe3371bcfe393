//! Sends the request's body and trailers back, piece by piece as they arrive.
//! The server moves the pieces from one stream to the other, so no byte of the
//! body passes through the guest.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, HeaderError, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse,
    ResponseOutparam, Trailers, http_error_code,
};
use wasip2::io::streams::StreamError;

struct Echo;

wasip2::http::proxy::export!(Echo);

/// A limit, not a size: a piece is as long as what has arrived.
const PIECE_BYTES_MAX: u64 = 1 << 20;

impl Guest for Echo {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let headers = match copied_headers(&request.headers()) {
            Ok(headers) => headers,
            Err(error) => {
                let error = ErrorCode::InternalError(Some(error.to_string()));
                return ResponseOutparam::set(response_out, Err(error));
            }
        };
        let response = OutgoingResponse::new(headers);
        let source = request.consume().expect("the body is taken once");
        let target = response.body().expect("the body is taken once");
        ResponseOutparam::set(response_out, Ok(response));

        // If the body broke off, the response is dropped unfinished, and so breaks
        // off too: the client would otherwise take what it got for the whole.
        if let Ok(trailers) = copy(source, &target) {
            // An error means that the client is gone: nobody is left to tell.
            let _ = OutgoingBody::finish(target, trailers);
        }
    }
}

fn copy(source: IncomingBody, target: &OutgoingBody) -> Result<Option<Trailers>, ErrorCode> {
    let from = source.stream().expect("the stream is taken once");
    let to = target.write().expect("the stream is taken once");
    loop {
        match to.blocking_splice(&from, PIECE_BYTES_MAX) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(http_error_code(&error).unwrap_or(ErrorCode::InternalError(None)));
            }
        }
    }
    drop((from, to));
    trailers(source)
}

fn trailers(source: IncomingBody) -> Result<Option<Trailers>, ErrorCode> {
    let trailers = IncomingBody::finish(source);
    loop {
        match trailers.get() {
            Some(result) => return result.expect("the trailers are taken once"),
            None => trailers.subscribe().block(),
        }
    }
}

/// The type of the body, and `trailer`: without the names of the trailers
/// beforehand, HTTP/1.1 servers leave the trailers out.
fn copied_headers(request: &Fields) -> Result<Fields, HeaderError> {
    let response = Fields::new();
    for name in ["content-type", "trailer"] {
        let values = request.get(name);
        if !values.is_empty() {
            response.set(name, &values)?;
        }
    }
    Ok(response)
}
