//! Connects to what the field `x-connect` names, `HOST:PORT`, sends the request's body there, and
//! what comes back is the response. The server moves the pieces, so no byte passes through the
//! guest. The name of what went wrong is the text of a 502.
//!
//! `?bind`, `?listen` and `?udp` try something else with a socket.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

struct Connect;

wasip2::http::proxy::export!(Connect);

/// A limit, not a size: a piece is as long as what has arrived.
const PIECE_BYTES_MAX: u64 = 1 << 20;
const ANY: IpSocketAddress = v4(0);

impl Guest for Connect {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let done = match path.split_once('?') {
            Some((_, "bind")) => bind(),
            Some((_, "listen")) => listen(),
            Some((_, "udp")) => datagram(&request),
            _ => return connect(request, response_out),
        };
        answer(response_out, if done.is_ok() { 200 } else { 502 }, |body| {
            let _ = body.write_all(done.unwrap_or_else(|code| code).as_bytes());
        });
    }
}

fn connect(request: IncomingRequest, response_out: ResponseOutparam) {
    let (socket, input, output) = match connected(&request) {
        Ok(connected) => connected,
        Err(code) => {
            return answer(response_out, 502, |body| {
                let _ = body.write_all(code.as_bytes());
            });
        }
    };
    let body = request.consume().expect("the body is taken once");
    copy(&body.stream().expect("the stream is taken once"), &output);
    IncomingBody::finish(body);
    let _ = socket.shutdown(ShutdownType::Send);
    answer(response_out, 200, |body| copy(&input, body));
    // The streams end before their socket.
    drop((input, output));
    drop(socket);
}

type Connected = (TcpSocket, InputStream, OutputStream);

fn connected(request: &IncomingRequest) -> Result<Connected, String> {
    let address = destination(request)?;
    let socket = create_tcp_socket(family(address)).map_err(name)?;
    socket.start_connect(&instance_network(), address).map_err(name)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect().map_err(name)?;
    Ok((socket, input, output))
}

fn destination(request: &IncomingRequest) -> Result<IpSocketAddress, String> {
    let values = request.headers().get("x-connect");
    let asked = String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned();
    let (host, port) = asked.rsplit_once(':').ok_or("no HOST:PORT")?;
    let port = port.parse().map_err(|_| "no port")?;
    let lookup = resolve_addresses(&instance_network(), host).map_err(name)?;
    lookup.subscribe().block();
    let first = lookup.resolve_next_address().map_err(|code| format!("lookup {code:?}"))?;
    Ok(match first.ok_or("no address")? {
        IpAddress::Ipv4(address) => IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }),
        IpAddress::Ipv6(address) => {
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
    })
}

fn family(address: IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}

const fn v4(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) })
}

fn bind() -> Result<String, String> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(name)?;
    socket.start_bind(&instance_network(), v4(9999)).map_err(name)?;
    socket.finish_bind().map_err(name)?;
    Ok("bound".to_owned())
}

fn listen() -> Result<String, String> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(name)?;
    socket.start_bind(&instance_network(), ANY).map_err(name)?;
    socket.finish_bind().map_err(name)?;
    socket.start_listen().map_err(name)?;
    Ok("listens".to_owned())
}

fn datagram(request: &IncomingRequest) -> Result<String, String> {
    let address = destination(request)?;
    let socket = create_udp_socket(family(address)).map_err(name)?;
    socket.start_bind(&instance_network(), ANY).map_err(name)?;
    socket.finish_bind().map_err(name)?;
    let (incoming, outgoing) = socket.stream(None).map_err(name)?;
    outgoing.check_send().map_err(name)?;
    let ping = OutgoingDatagram { data: b"ping".to_vec(), remote_address: Some(address) };
    outgoing.send(&[ping]).map_err(name)?;
    loop {
        incoming.subscribe().block();
        if let Some(answer) = incoming.receive(1).map_err(name)?.pop() {
            return Ok(String::from_utf8_lossy(&answer.data).into_owned());
        }
    }
}

fn name(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn answer(response_out: ResponseOutparam, status: u16, write: impl FnOnce(&mut OutputStream)) {
    let answer = OutgoingResponse::new(Fields::new());
    answer.set_status_code(status).expect("the status exists");
    let body = answer.body().expect("the body is taken once");
    let mut stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(answer));
    write(&mut stream);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Until one of them ends.
fn copy(from: &InputStream, to: &OutputStream) {
    loop {
        match to.blocking_splice(from, PIECE_BYTES_MAX) {
            Ok(_) => {}
            Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => return,
        }
    }
}
