//! Answers every request with `Hello World`. It uses nothing but `wasi:http`
//! 0.2, so it runs on any server for that.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;

wasip2::http::proxy::export!(Hello);

const BODY: &[u8] = b"Hello World";

impl Guest for Hello {
    fn handle(_request: IncomingRequest, response_out: ResponseOutparam) {
        let headers = Fields::from_list(&[
            ("content-type".into(), b"text/html".into()),
            ("content-length".into(), BODY.len().to_string().into()),
        ])
        .expect("these headers are well-formed and allowed");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        let stream = body.write().expect("the stream is taken once");
        ResponseOutparam::set(response_out, Ok(response));

        // An error means that the client is gone: nobody is left to tell.
        let _ = stream.blocking_write_and_flush(BODY);
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
