//! Answers a request, and defers the rest of the work.

use std::time::Duration;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use exports::wasm_serve::deferred::callback;
use wasm_serve::deferred::timers;
use wasm_serve::deferred::types::DeferredCall;

// Only our own interfaces: the crate wasip2 has the rest of the world.
wit_bindgen::generate!({
    path: "wit",
    inline: "
        package guest:app;
        world guest {
            import wasm-serve:deferred/timers@0.1.0;
            export wasm-serve:deferred/callback@0.1.0;
        }
    ",
    generate_all,
});

struct App;

export!(App);
wasip2::http::proxy::export!(App);

const DELAY: Duration = Duration::from_secs(5);

impl wasip2::exports::http::incoming_handler::Guest for App {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        // It begins five seconds later, in any instance. Only the payload passes from
        // here to there.
        if let Err(error) = timers::call_later(DELAY.as_nanos() as u64, target.as_bytes()) {
            eprintln!("not deferred: {error:?}");
        }
        respond(response_out, "Hello World\n");
    }
}

impl callback::Guest for App {
    /// Runs the deferred call. Standard output is the server's log.
    fn run(call: DeferredCall) -> Result<(), String> {
        println!("deferred: {}", String::from_utf8_lossy(&call.payload));
        Ok(())
    }
}

fn respond(response_out: ResponseOutparam, text: &str) {
    let headers = Fields::from_list(&[("content-type".to_owned(), b"text/plain".to_vec())]);
    let response = OutgoingResponse::new(headers.expect("this header is well-formed and allowed"));
    let body = response.body().expect("the body is taken once");
    let stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(response));
    // An error means that the client is gone: nobody is left to tell.
    let _ = stream.blocking_write_and_flush(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
