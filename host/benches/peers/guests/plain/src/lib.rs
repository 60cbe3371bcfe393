//! A handler as one writes it with the interfaces of WASI 0.2: it formats and allocates
//! as ordinary programs do, and cares for no cost.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Plain;

wasip2::http::proxy::export!(Plain);

impl wasip2::exports::http::incoming_handler::Guest for Plain {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let body = match request.path_with_query().as_deref() {
            Some("/megabyte") => megabyte(),
            _ => "Hello World".to_owned(),
        };
        let fields = Fields::new();
        fields.append("content-type", b"text/plain").expect("the field is well-formed");
        let response = OutgoingResponse::new(fields);
        let outgoing = response.body().expect("the body is taken once");
        ResponseOutparam::set(response_out, Ok(response));
        let stream = outgoing.write().expect("the stream is taken once");
        stream.blocking_write_and_flush(body.as_bytes()).expect("the client takes it");
        drop(stream);
        OutgoingBody::finish(outgoing, None).expect("the body is whole");
    }
}

/// Touches a megabyte.
fn megabyte() -> String {
    let bytes = vec![b'x'; 1 << 20];
    format!("{}", std::hint::black_box(&bytes).len())
}
