//! A server over TLS that speaks HTTP/2 or HTTP/1.1, as it offers by ALPN: it tells in its responses
//! what it got, and keeps that.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::unfold;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub version: http::Version,
    /// None if it broke off.
    pub body: Option<usize>,
}

/// It runs until the tests end.
pub struct Negotiating {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Negotiating {
    /// `protocol` is what it offers: `h2` or `http/1.1`.
    pub fn start(mut config: ServerConfig, protocol: &str) -> Negotiating {
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let all = got.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, TlsAcceptor::from(Arc::new(config)), all));
        });
        Negotiating { address, got }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, got: Arc<Mutex<Vec<Got>>>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, got) = (acceptor.clone(), got.clone());
        tokio::spawn(async move {
            // Whoever leaves is of no concern.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, got.clone()));
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            if is_http2 {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
            } else {
                let _ = http1::Builder::new().serve_connection(stream, service).await;
            }
        });
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn answer(request: Request<Incoming>, all: Arc<Mutex<Vec<Got>>>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/silent" => {
            sleep(Duration::from_secs(30)).await;
            Response::new(Full::default().map_err(|never| match never {}).boxed())
        }
        "/early" => {
            let response = Response::builder().header("x-early", "1");
            response.body(Full::from("early").map_err(|never| match never {}).boxed()).unwrap()
        }
        "/nothing" => {
            let empty = Empty::new().map_err(|never: Infallible| match never {});
            Response::builder().status(204).body(empty.boxed()).unwrap()
        }
        "/large-head" => {
            let response = Response::builder().header("x-large", "x".repeat(100 << 10));
            response.body(Full::default().map_err(|never| match never {}).boxed()).unwrap()
        }
        "/pauses" => Response::new(begun(Duration::from_secs(30))),
        "/breaks" => Response::new(begun(Duration::ZERO)),
        _ => echo(request, &all).await,
    })
}

/// The beginning of a body, which breaks off later.
fn begun(after: Duration) -> Body {
    let frames = unfold(0, move |number| async move {
        match number {
            0 => Some((Ok(Frame::data(Bytes::from_static(b"hello"))), 1)),
            1 => {
                sleep(after.max(Duration::from_millis(50))).await;
                Some((Err(io::Error::other("it breaks")), 2))
            }
            _ => None,
        }
    });
    BodyExt::boxed(StreamBody::new(Box::pin(frames)))
}

/// What came goes back, and the head of the response says what that was.
async fn echo(request: Request<Incoming>, all: &Mutex<Vec<Got>>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await.ok();
    let trailers = collected.as_ref().and_then(|body| body.trailers().cloned());
    let body = collected.map(|collected| collected.to_bytes());
    let mut response = Response::builder().header("x-method", head.method.as_str());
    // A library may say of none that it is 0.
    if let Some(length) = head.headers.get("content-length").filter(|length| *length != "0") {
        response = response.header("x-length", length);
    }
    all.lock().unwrap().push(Got { version: head.version, body: body.as_ref().map(Bytes::len) });
    let bytes = body.unwrap_or_default();
    if let Some(trailers) = trailers {
        let names: Vec<&str> = trailers.keys().map(|name| name.as_str()).collect();
        response = response.header("trailer", names.join(", "));
        // A body of a known length has no trailers by HTTP/1.1.
        let frames = futures::stream::iter([Ok(Frame::data(bytes)), Ok(Frame::trailers(trailers))]);
        return response.body(BodyExt::boxed(StreamBody::new(frames))).unwrap();
    }
    response.body(Full::new(bytes).map_err(|never| match never {}).boxed()).unwrap()
}
