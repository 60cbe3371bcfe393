//! `Hello World` with wstd, an asynchronous standard library for WASI 0.2.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new("Hello World".into()))
}
