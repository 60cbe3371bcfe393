//! The bare hyper server: what any HTTP server in Rust costs at the least. It
//! answers as the guests do: `Hello World` to GET, and its own body to POST.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime;

use crate::options::Bare;

const THREADS: usize = 2;

pub fn serve(kind: Bare, port: u16) -> ExitCode {
    let served = match kind {
        Bare::Shared => shared(port),
        Bare::PerThread => per_thread(port),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare hyper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn shared(port: u16) -> Result<()> {
    runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?.block_on(accept(port))
}

fn per_thread(port: u16) -> Result<()> {
    let others: Vec<_> = (1..THREADS).map(|_| std::thread::spawn(move || one_thread(port))).collect();
    one_thread(port)?;
    for other in others {
        other.join().expect("the thread does not panic")?;
    }
    Ok(())
}

fn one_thread(port: u16) -> Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(accept(port))
}

async fn accept(port: u16) -> Result<()> {
    let listener = listen(port)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            // An error means that the client is gone.
            let _ = connection.await;
        });
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(1024)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Incoming>>, Infallible> {
    let response = Response::builder();
    let response = if request.method() == Method::POST {
        response.body(Either::Right(request.into_body()))
    } else {
        let body = Bytes::from_static(b"Hello World");
        response.header(header::CONTENT_TYPE, "text/html").body(Either::Left(Full::new(body)))
    };
    Ok(response.expect("the parts are valid"))
}
