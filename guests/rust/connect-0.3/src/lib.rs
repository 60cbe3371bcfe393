//! Connects to what the field `x-connect` names, `HOST:PORT`, sends the request's body there, and
//! what comes back is the response. It hands on the streams themselves, so no byte passes through
//! the guest. The name of what went wrong is the text of a 502.
//!
//! `?bind`, `?listen` and `?udp` try something else with a socket.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode as HttpError, Fields, Request, Response};
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
    UdpSocket,
};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Connect;

wasip3::http::service::export!(Connect);

impl Guest for Connect {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let path = request.get_path_with_query().unwrap_or_default();
        let done = match path.split_once('?') {
            Some((_, "bind")) => bind(),
            Some((_, "listen")) => listen(),
            Some((_, "udp")) => datagram(&request).await,
            _ => return connect(request).await,
        };
        Ok(text(if done.is_ok() { 200 } else { 502 }, done.unwrap_or_else(|code| code)))
    }
}

async fn connect(request: Request) -> Result<Response, HttpError> {
    let socket = match connected(&request).await {
        Ok(socket) => socket,
        Err(code) => return Ok(text(502, code)),
    };
    // Nobody writes to this future, so it resolves to: all is well.
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Request::consume_body(request, no_error);
    let sent = socket.send(body);
    let (received, end) = socket.receive();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(received), no_trailers);
    // The streams go on without it.
    drop(socket);
    spawn_local(async move {
        let _ = sent.await;
        let _ = end.await;
    });
    Ok(response)
}

async fn connected(request: &Request) -> Result<TcpSocket, String> {
    let address = destination(request).await?;
    let socket = TcpSocket::create(family(address)).map_err(name)?;
    socket.connect(address).await.map_err(name)?;
    Ok(socket)
}

async fn destination(request: &Request) -> Result<IpSocketAddress, String> {
    let values = request.get_headers().get("x-connect");
    let asked = String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned();
    let (host, port) = asked.rsplit_once(':').ok_or("no HOST:PORT")?;
    let port = port.parse().map_err(|_| "no port")?;
    let found = ip_name_lookup::resolve_addresses(host.to_owned()).await;
    let found = found.map_err(|code| format!("lookup {code:?}"))?;
    Ok(match found.first().ok_or("no address")? {
        IpAddress::Ipv4(address) => IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: *address }),
        IpAddress::Ipv6(address) => {
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address: *address, scope_id: 0 })
        }
    })
}

fn family(address: IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}

fn bind() -> Result<String, String> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(name)?;
    let address = Ipv4SocketAddress { port: 9999, address: (0, 0, 0, 0) };
    socket.bind(IpSocketAddress::Ipv4(address)).map_err(name)?;
    Ok("bound".to_owned())
}

fn listen() -> Result<String, String> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(name)?;
    socket.listen().map_err(name)?;
    Ok("listens".to_owned())
}

async fn datagram(request: &Request) -> Result<String, String> {
    let address = destination(request).await?;
    let socket = UdpSocket::create(family(address)).map_err(name)?;
    socket.send(b"ping".to_vec(), Some(address)).await.map_err(name)?;
    let (answer, _) = socket.receive().await.map_err(name)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn name(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn text(status: u16, text: String) -> Response {
    let (mut body, reader) = wit_stream::new();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (answer, _sent) = Response::new(Fields::new(), Some(reader), no_trailers);
    answer.set_status_code(status).expect("the status exists");
    spawn_local(async move {
        let _ = body.write_all(text.into_bytes()).await;
    });
    answer
}
