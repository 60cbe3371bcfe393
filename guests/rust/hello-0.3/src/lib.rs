//! Answers every request with `Hello World`. It uses nothing but `wasi:http`
//! 0.3, so it runs on any server for that.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Hello;

wasip3::http::service::export!(Hello);

const BODY: &[u8] = b"Hello World";

impl Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::from_list(&[
            ("content-type".into(), b"text/html".into()),
            ("content-length".into(), BODY.len().to_string().into()),
        ])
        .expect("these headers are well-formed and allowed");
        let (mut body, body_reader) = wit_stream::new();
        // Nobody writes to this future, so it resolves to no trailers.
        let (_, no_trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(body_reader), no_trailers);

        // The body is read only after the response has been returned. What
        // remains unwritten is what a client that is gone will not get.
        spawn_local(async move {
            let _ = body.write_all(BODY.to_vec()).await;
        });
        Ok(response)
    }
}
