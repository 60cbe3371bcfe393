//! Connects to what the field `x-connect` names, `HOST:PORT`, and speaks TLS over the socket by
//! `wasi:tls`. There it asks by HTTP/1.1, written by hand, for its own request's path, with its
//! request's body. What the server answers is the response: its status, and its body up to the end
//! of the connection. `x-name` is another name that the certificate is to have. What went wrong is
//! the text of a 502.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode as HttpError, Fields, Request, Response};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
};
use wasip3::{spawn_local, wit_future, wit_stream};
use wit_bindgen::rt::async_support::{FutureReader, StreamReader, StreamResult, StreamWriter};

use self::bindings::wasi::tls::client::Connector;
use self::bindings::wasi::tls::types::Error as TlsError;

/// Only `wasi:tls`: the crate wasip3 has the rest of the world.
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package guest:tls;
            world guest {
                import wasi:tls/client@0.3.0-draft;
            }
        ",
        generate_all,
    });
}

struct Tls;

wasip3::http::service::export!(Tls);

const PIECE_BYTES_MAX: usize = 64 << 10;
const HEAD_BYTES_MAX: usize = 64 << 10;

impl Guest for Tls {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let (mut body, reader) = wit_stream::new();
        let (end, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
        match ask(request).await {
            Ok(answer) => {
                response.set_status_code(answer.status).map_err(|()| HttpError::HttpProtocolError)?;
                spawn_local(async move {
                    // Who cuts a connection off does not say by TLS that it was all.
                    let whole = pass_back(answer, body).await;
                    let _ =
                        end.write(whole.map(|()| None).map_err(|_| HttpError::HttpResponseIncomplete)).await;
                });
            }
            Err(wrong) => {
                response.set_status_code(502).expect("the status exists");
                spawn_local(async move {
                    let _ = body.write_all(wrong.into_bytes()).await;
                });
            }
        }
        Ok(response)
    }
}

/// What a server answers: its status, what of its body came with the head, and where the rest
/// comes from.
struct Answer {
    status: u16,
    begin: Vec<u8>,
    input: StreamReader<u8>,
    received: FutureReader<Result<(), TlsError>>,
    /// While it is there, the connection does not end from this side.
    _output: StreamWriter<u8>,
}

async fn ask(request: Request) -> Result<Answer, String> {
    let asked = field(&request, "x-connect");
    let (host, port) = asked.rsplit_once(':').ok_or("no HOST:PORT")?;
    let socket = connected(host, port.parse().map_err(|_| "no port")?).await?;
    let connector = Connector::new();
    let (mut output, cleartext) = wit_stream::new();
    let (ciphertext, _sending) = connector.send(cleartext);
    let _sent = socket.send(ciphertext);
    let (received, _end) = socket.receive();
    let (mut input, received) = connector.receive(received);
    let name = Some(field(&request, "x-name")).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| host.to_owned());
    let connected = Connector::connect(connector, name).await;
    connected.map_err(|error| format!("tls: {}", error.to_debug_string()))?;
    send(request, host, &mut output).await?;
    let (status, begin) = head(&mut input).await?;
    Ok(Answer { status, begin, input, received, _output: output })
}

async fn connected(host: &str, port: u16) -> Result<TcpSocket, String> {
    let found = resolve_addresses(host.to_owned()).await.map_err(|code| format!("{code:?}"))?;
    let (family, address) = match *found.first().ok_or("no address")? {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
        ),
    };
    let name = |code: ErrorCode| format!("{code:?}");
    let socket = TcpSocket::create(family).map_err(name)?;
    socket.connect(address).await.map_err(name)?;
    Ok(socket)
}

async fn send(request: Request, host: &str, output: &mut StreamWriter<u8>) -> Result<(), String> {
    let path = request.get_path_with_query().unwrap_or_default();
    let length = field(&request, "content-length");
    let method = if length.is_empty() { "GET" } else { "POST" };
    let length = if length.is_empty() { length } else { format!("content-length: {length}\r\n") };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{length}\r\n");
    // Nobody writes to this future, so it resolves to: all is well.
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, no_error);
    let mut piece = head.into_bytes();
    loop {
        if !output.write_all(piece).await.is_empty() {
            return Err("sending: closed".to_owned());
        }
        let (result, read) = body.read(Vec::with_capacity(PIECE_BYTES_MAX)).await;
        if read.is_empty() && result != StreamResult::Complete(0) {
            return Ok(());
        }
        piece = read;
    }
}

/// The status, and what of the body came with the head.
async fn head(input: &mut StreamReader<u8>) -> Result<(u16, Vec<u8>), String> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err("the head is too large".to_owned());
        }
        let (result, read) = input.read(Vec::with_capacity(4096)).await;
        if read.is_empty() && result == StreamResult::Dropped {
            return Err("receiving: closed".to_owned());
        }
        head.extend(read);
    };
    let begin = head.split_off(end);
    let status = head.split(|byte| *byte == b' ').nth(1).and_then(|status| std::str::from_utf8(status).ok());
    Ok((status.and_then(|status| status.parse().ok()).ok_or("no status")?, begin))
}

async fn pass_back(mut answer: Answer, mut body: StreamWriter<u8>) -> Result<(), TlsError> {
    let mut piece = answer.begin;
    loop {
        if !body.write_all(piece).await.is_empty() {
            return Ok(());
        }
        let (result, read) = answer.input.read(Vec::with_capacity(PIECE_BYTES_MAX)).await;
        if read.is_empty() && result == StreamResult::Dropped {
            return answer.received.await;
        }
        piece = read;
    }
}

fn field(request: &Request, name: &str) -> String {
    let values = request.get_headers().get(name);
    String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned()
}
