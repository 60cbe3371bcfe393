//! Sends the request's body and trailers back. It hands the streams themselves
//! to the response, so no byte of the body passes through the guest.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, HeaderError, Request, Response};
use wasip3::wit_future;

struct Echo;

wasip3::http::service::export!(Echo);

impl Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let headers = copied_headers(&request.get_headers())
            .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
        // Nobody writes to this future, so it resolves to: all is well.
        let (_, no_error) = wit_future::new(|| Ok(()));
        let (body, trailers) = Request::consume_body(request, no_error);
        let (response, _sent) = Response::new(headers, Some(body), trailers);
        Ok(response)
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
