//! Connects to what the field `x-connect` names, `HOST:PORT`, and speaks TLS over the socket by
//! `wasi:tls`. There it asks by HTTP/1.1, written by hand, for its own request's path, with its
//! request's body. What the server answers is the response: its status, and its body up to the end
//! of the connection. `x-name` is another name that the certificate is to have. What went wrong is
//! the text of a 502.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use self::wasi::tls::types::{ClientConnection, ClientHandshake};

// Only `wasi:tls`: the crate wasip2 has the rest of the world.
wit_bindgen::generate!({
    path: ["../../../wit/deps/io-0.2", "wit"],
    inline: "
        package guest:tls;
        world guest {
            import wasi:tls/types@0.2.0-draft;
        }
    ",
    with: {
        "wasi:io/error@0.2.12": wasip2::io::error,
        "wasi:io/poll@0.2.12": wasip2::io::poll,
        "wasi:io/streams@0.2.12": wasip2::io::streams,
        "wasi:tls/types@0.2.0-draft": generate,
    },
});

struct Tls;

wasip2::http::proxy::export!(Tls);

/// A limit, not a size: a piece is as long as what has arrived.
const PIECE_BYTES_MAX: u64 = 1 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;

impl Guest for Tls {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        match ask(&request) {
            Ok(answer) => pass_back(answer, response_out),
            Err(wrong) => respond(response_out, 502, |body| body.write_all(wrong.as_bytes()).is_ok()),
        }
    }
}

/// What a server answers: its status, what of its body came with the head, and where the rest
/// comes from. The parts are dropped in this order.
struct Answer {
    status: u16,
    begin: Vec<u8>,
    input: InputStream,
    _output: OutputStream,
    _connection: ClientConnection,
    _socket: TcpSocket,
}

fn ask(request: &IncomingRequest) -> Result<Answer, String> {
    let asked = field(request, "x-connect");
    let (host, port) = asked.rsplit_once(':').ok_or("no HOST:PORT")?;
    let (socket, input, output) = connected(host, port.parse().map_err(|_| "no port")?)?;
    let name = Some(field(request, "x-name")).filter(|name| !name.is_empty());
    let handshake = ClientHandshake::new(name.as_deref().unwrap_or(host), input, output);
    let streams = ClientHandshake::finish(handshake);
    streams.subscribe().block();
    let streams = streams.get().ok_or("the handshake is not done")?.map_err(|()| "it was asked before")?;
    let (connection, input, output) = streams.map_err(|error| format!("tls: {}", error.to_debug_string()))?;
    send(request, host, &output).map_err(|error| format!("sending: {}", told(error)))?;
    let (status, begin) = head(&input)?;
    Ok(Answer { status, begin, input, _output: output, _connection: connection, _socket: socket })
}

fn connected(host: &str, port: u16) -> Result<(TcpSocket, InputStream, OutputStream), String> {
    let lookup = resolve_addresses(&instance_network(), host).map_err(name)?;
    lookup.subscribe().block();
    let first = lookup.resolve_next_address().map_err(name)?;
    let (family, address) = match first.ok_or("no address")? {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
        ),
    };
    let socket = create_tcp_socket(family).map_err(name)?;
    socket.start_connect(&instance_network(), address).map_err(name)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect().map_err(name)?;
    Ok((socket, input, output))
}

fn send(request: &IncomingRequest, host: &str, output: &OutputStream) -> Result<(), StreamError> {
    let path = request.path_with_query().unwrap_or_default();
    let length = field(request, "content-length");
    let method = if length.is_empty() { "GET" } else { "POST" };
    let length = if length.is_empty() { length } else { format!("content-length: {length}\r\n") };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{length}\r\n");
    output.blocking_write_and_flush(head.as_bytes())?;
    let body = request.consume().expect("the body is taken once");
    let from = body.stream().expect("the stream is taken once");
    loop {
        match output.blocking_splice(&from, PIECE_BYTES_MAX) {
            Ok(_) => {}
            Err(StreamError::Closed) => return output.blocking_flush(),
            Err(error) => return Err(error),
        }
    }
}

/// The status, and what of the body came with the head.
fn head(input: &InputStream) -> Result<(u16, Vec<u8>), String> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err("the head is too large".to_owned());
        }
        head.extend(input.blocking_read(4096).map_err(|error| format!("receiving: {}", told(error)))?);
    };
    let begin = head.split_off(end);
    let status = head.split(|byte| *byte == b' ').nth(1).and_then(|status| std::str::from_utf8(status).ok());
    Ok((status.and_then(|status| status.parse().ok()).ok_or("no status")?, begin))
}

fn pass_back(answer: Answer, response_out: ResponseOutparam) {
    respond(response_out, answer.status, |body| {
        body.write_all(&answer.begin).is_ok()
            && loop {
                match body.blocking_splice(&answer.input, PIECE_BYTES_MAX) {
                    Ok(_) => {}
                    Err(StreamError::Closed) => break true,
                    // Who cuts a connection off does not say by TLS that it was all.
                    Err(StreamError::LastOperationFailed(_)) => break false,
                }
            }
    });
}

/// A body that is not whole has no end.
fn respond(response_out: ResponseOutparam, status: u16, write: impl FnOnce(&mut OutputStream) -> bool) {
    let answer = OutgoingResponse::new(Fields::new());
    answer.set_status_code(status).expect("the status exists");
    let body = answer.body().expect("the body is taken once");
    let mut stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(answer));
    let is_whole = write(&mut stream);
    drop(stream);
    if is_whole {
        let _ = OutgoingBody::finish(body, None);
    }
}

fn field(request: &IncomingRequest, name: &str) -> String {
    let values = request.headers().get(name);
    String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned()
}

fn name(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn told(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}
