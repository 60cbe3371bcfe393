//! What clients send, and what guests answer. Each answer goes through the HTTP library and
//! is looked at as it reaches the client.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::sync::oneshot;

use super::wait_for;

use crate::connection::client::{CLIENT_HEADER, ClientAddress};
use crate::connection::framing::Framing;
use crate::connection::head;
use crate::program::cgi;
use crate::program::cgi::output::Answer;
use crate::program::instance;
use crate::request::access_log;
use crate::request::begun;
use crate::request::response::ResponseBody;
use crate::sandbox::imports::gateway;
use crate::sandbox::imports::http::Head;
use crate::sandbox::left_out::LeftOut;
use crate::sandbox::meta_variables::{self, ServerAddress};
use crate::telemetry::log::Log;

static LEFT_OUT: LazyLock<Arc<LeftOut>> = LazyLock::new(|| {
    let log = Log::open(Some("/dev/null".as_ref()), Default::default()).expect("it is there");
    Arc::new(LeftOut::new(log))
});

/// A program's standard output, in pieces of a size that the first byte says.
pub(super) fn cgi(bytes: &[u8]) {
    let Some((&size, output)) = bytes.split_first() else { return };
    let (whole, pieces) = (answer(output, usize::MAX), answer(output, 1 + usize::from(size)));
    assert_eq!(whole, pieces, "pieces matter");
    if let Some(Ok((status, fields, body))) = whole {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        for (name, value) in fields {
            response.headers_mut().append(name, value);
        }
        check_sent(response, size % 2 == 0);
    }
}

type Told = Result<(StatusCode, Vec<(HeaderName, http::HeaderValue)>, Bytes), String>;

/// The response of a program; none if it has none.
fn answer(output: &[u8], size: usize) -> Option<Told> {
    let (sender, mut head): (_, oneshot::Receiver<Head>) = oneshot::channel();
    let answer = Answer::new(sender, LEFT_OUT.clone());
    output.chunks(size).for_each(|piece| answer.output().write(piece));
    answer.finish().ok()?;
    let response = match head.try_recv().expect("a program that ended well has answered") {
        Ok(response) => response,
        Err(wrong) => return Some(Err(wrong)),
    };
    let (head, body) = response.into_parts();
    let fields = head.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let body = wait_for(body.collect()).expect("the program ended well").to_bytes();
    Some(Ok((head.status, fields, body)))
}

/// A response, its head and its body, as the gateway of Python writes them.
pub(super) fn gateway(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_head_request = text.starts_with('H');
    let (head, body) = text.trim_start_matches('H').split_once('\0').unwrap_or((&text, ""));
    if let Ok(response) = gateway::response(head, body, !is_head_request, &LEFT_OUT) {
        let (head, body) = response.into_parts();
        let body = wait_for(body.collect()).expect("it is whole").to_bytes();
        check_sent(Response::from_parts(head, body), is_head_request);
    }
}

/// What the first client of a connection gets is this response, or visibly broken; and what
/// the second one gets is its own.
fn check_sent(response: Response<Bytes>, is_head_request: bool) {
    let (head, body) = response.into_parts();
    let method = if is_head_request { "HEAD" } else { "GET" };
    let requests = format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\nGET /second HTTP/1.1\r\nhost: a\r\n\r\n");
    let got = exchange(requests.as_bytes(), usize::MAX, |request| {
        if request.uri().path() == "/second" {
            return Response::new(ResponseBody::from("second".to_owned()));
        }
        match begun::check_head(&head) {
            Ok(length) => {
                let body = match begun::has_no_body(&head, is_head_request) {
                    true => ResponseBody::complete(VecDeque::new(), None),
                    false => {
                        let frames = VecDeque::from([Frame::data(body.clone())]);
                        ResponseBody::complete(frames, length)
                    }
                };
                Response::from_parts(head.clone(), body)
            }
            Err(failure) => failure.response(),
        }
    });
    let first = Received::read(&got, is_head_request);
    let is_answered = begun::check_head(&head).is_ok();
    if is_answered {
        check_sent_head(&head, &first);
    }
    match first.body {
        // It is broken: nothing follows.
        None => assert!(is_answered && body.starts_with(first.rest)),
        Some(told) => {
            // Of one that is longer than announced, so much may have been sent.
            assert!(!is_answered || body.starts_with(told));
            let second = Received::read(first.rest, false);
            assert_eq!((second.body, second.rest.len()), (Some(&b"second"[..]), 0));
        }
    }
}

/// Each field is there as it was given, and no other one but the server's own.
fn check_sent_head(head: &Parts, sent: &Received<'_>) {
    assert_eq!(sent.status, head.status.as_u16());
    let own = ["date", "content-length"];
    let others = sent.fields.iter().filter(|(name, _)| !own.contains(&name.as_str()));
    assert!(others.clone().all(|(name, _)| head.headers.contains_key(name)), "{:?}", sent.fields);
    // The HTTP library leaves a length out that no body can have, and says in its own way
    // which trailers there are.
    let is_left_out = |name: &HeaderName| {
        name == header::CONTENT_LENGTH && is_bodiless(sent.status, false) || name == header::TRAILER
    };
    for name in head.headers.keys().filter(|name| !is_left_out(name)) {
        let told = sent.fields.iter().filter(|(known, _)| known == name.as_str());
        let given = head.headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
        assert!(told.map(|(_, value)| &value[..]).eq(given), "{name}");
    }
}

fn is_bodiless(status: u16, is_head_request: bool) -> bool {
    is_head_request || [204, 205, 304].contains(&status)
}

/// A response as a client reads it.
struct Received<'a> {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    /// None if the connection ends within it.
    body: Option<&'a [u8]>,
    rest: &'a [u8],
}

impl Received<'_> {
    fn read(bytes: &[u8], is_head_request: bool) -> Received<'_> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
        let status = std::str::from_utf8(&lines.next().expect("a line")[9..12]).expect("a status");
        let field = |line: &[u8]| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
            (
                String::from_utf8(line[..colon].to_vec()).expect("a name"),
                line[colon + 1..].trim_ascii().to_vec(),
            )
        };
        let (status, fields): (u16, Vec<_>) = (status.parse().expect("a number"), lines.map(field).collect());
        let length = fields.iter().find(|(name, _)| name == "content-length");
        let length = match length {
            _ if is_bodiless(status, is_head_request) => 0,
            Some((_, length)) => std::str::from_utf8(length).expect("a text").parse().expect("a number"),
            None => panic!("where the response ends is not said"),
        };
        let rest = &bytes[end + 4..];
        match rest.split_at_checked(length) {
            Some((body, rest)) => Received { status, fields, body: Some(body), rest },
            None => Received { status, fields, body: None, rest },
        }
    }
}

/// What a client sends, in pieces of a size that the first byte says.
pub(super) fn request(bytes: &[u8]) {
    let Some((&size, sent)) = bytes.split_first() else { return };
    let mut framing = Framing::default();
    framing.follow(sent);
    let count = Cell::new(0);
    exchange(sent, 1 + usize::from(size), |mut request| {
        count.set(count.get() + 1);
        assert!(count.get() <= framing.heads(), "the HTTP library sees a head that `framing` does not");
        let length = request.headers().get(header::CONTENT_LENGTH);
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        assert!(length.is_none() || !is_chunked || framing.heads() == count.get());
        if head::check(&request).is_ok() {
            check_request(&mut request);
        }
        Response::new(ResponseBody::from(String::new()))
    });
}

/// A body in chunks, in pieces of a size that the first byte says, and a request behind it:
/// the HTTP library and `framing` read the same of them, or the first reads nothing that
/// `framing` does not let pass.
pub(super) fn chunks(bytes: &[u8]) {
    let Some((&size, body)) = bytes.split_first() else { return };
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let sent = [head, body].concat();
    let mut framing = Framing::default();
    let mut ends = None;
    for at in 0..sent.len() {
        if framing.follow(&sent[at..=at]).is_some() {
            break;
        }
        if framing.is_between() {
            ends = Some(at + 1);
            break;
        }
    }
    let expected = ends.map(|end| data(&sent[head.len()..end]));
    // What follows a whole body is one more request.
    let sent = match ends {
        Some(end) => [&sent[..end], b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n"].concat(),
        None => sent,
    };
    let read = Rc::new(RefCell::new(Vec::new()));
    let told = read.clone();
    exchange_with(&sent, 1 + usize::from(size), move |request| {
        let (told, is_second) = (told.clone(), request.uri().path() == "/second");
        async move {
            let body = request.into_body().collect().await.map(|body| body.to_bytes());
            told.borrow_mut().push((is_second, body.ok()));
            Ok::<_, Infallible>(Response::new(ResponseBody::from(String::new())))
        }
    });
    let read = read.take();
    match expected {
        // The HTTP library bounds the bytes of extensions and trailers, and how many trailers there are.
        Some(_) if read.first().is_some_and(|(_, body)| body.is_none()) => {
            let lines = sent.iter().filter(|byte| **byte == b'\n').count();
            assert!(sent.len() > 8 << 10 || lines > 100);
        }
        Some(body) => assert_eq!(read, [(false, Some(body)), (true, Some(Bytes::new()))]),
        None => assert_eq!(read, [(false, None)]),
    }
}

/// The data of a well-formed body.
fn data(mut chunks: &[u8]) -> Bytes {
    let mut data = Vec::new();
    loop {
        let line = chunks.iter().position(|byte| *byte == b'\n').expect("a line");
        let digits = chunks.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let digits = std::str::from_utf8(&chunks[..digits]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        if size == 0 {
            return data.into();
        }
        chunks = &chunks[line + 1..];
        data.extend_from_slice(&chunks[..size]);
        chunks = &chunks[size + 2..];
    }
}

/// What guests and the log are told of it is what the client cannot choose, or chose itself.
fn check_request(request: &mut Request<Incoming>) {
    let peer: IpAddr = [192, 0, 2, 1].into();
    ClientAddress::new(Some(peer), &[]).sign(request);
    head::add_missing_host(request);
    head::add_missing_path(request);
    assert_eq!(request.headers().get_all(CLIENT_HEADER).iter().collect::<Vec<_>>(), ["192.0.2.1"]);
    let server = ServerAddress::default();
    let joined = meta_variables::joined(request, &server);
    let separator = joined.chars().next().expect("it has variables");
    let texts: Vec<&str> = joined.split(separator).skip(1).collect();
    let variables: BTreeMap<&str, &str> = texts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!(variables.len() * 2, texts.len(), "a variable is there twice, or has no value");
    assert_eq!(variables["REMOTE_ADDR"], "192.0.2.1");
    assert_eq!(variables["REQUEST_METHOD"], request.method().as_str());
    for name in ["HTTP_PROXY", "HTTP_CONNECTION", "HTTP_TE", "HTTP_TRANSFER_ENCODING", "HTTPS"] {
        assert!(!variables.contains_key(name), "{name}");
    }
    assert!(variables["PATH_INFO"].is_empty() || variables["PATH_INFO"].starts_with('/'));
    if let Ok(environment) = cgi::environment(request, &server) {
        let is_kept = |(name, value): &(String, String)| !name.contains(['=', '\0']) && !value.contains('\0');
        assert!(environment.iter().all(is_kept), "{environment:?}");
    }
    let name = access_log::RequestName::new(request).to_string();
    assert!(name.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name:?}");
    let mut whole = Request::new(());
    (*whole.method_mut(), *whole.uri_mut()) = (Method::GET, request.uri().clone());
    *whole.headers_mut() = request.headers().clone();
    let whole = instance::with_whole_target(whole);
    assert_eq!(whole.uri().path_and_query().map(|target| target.as_str()), Some(target(request)));
}

fn target<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("/", |target| target.as_str())
}

/// What a client gets for what it sends.
fn exchange(
    sent: &[u8],
    size: usize,
    answer: impl Fn(Request<Incoming>) -> Response<ResponseBody>,
) -> Vec<u8> {
    exchange_with(sent, size, |request| std::future::ready(Ok(answer(request))))
}

fn exchange_with<F>(sent: &[u8], size: usize, answer: impl Fn(Request<Incoming>) -> F) -> Vec<u8>
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
{
    let got = Rc::new(RefCell::new(Vec::new()));
    let wire = Wire { sent: sent.to_vec().into(), size, got: got.clone(), framing: Some(Framing::default()) };
    let service = service_fn(answer);
    let mut http1 = http1::Builder::new();
    http1.header_read_timeout(None).half_close(true);
    // How it ended shows in what the client got.
    let _ = wait_for(http1.serve_connection(wire, service));
    got.take()
}

/// A client that sends all it has to say in pieces, and waits for nothing. What is malformed
/// does not pass, as on a socket.
struct Wire {
    sent: Bytes,
    size: usize,
    got: Rc<RefCell<Vec<u8>>>,
    /// None behind something malformed.
    framing: Option<Framing>,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.size.min(self.sent.len()).min(into.remaining());
        let bytes = self.sent.split_to(size);
        let Some(framing) = &mut self.framing else {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        };
        let passes = match framing.follow(&bytes) {
            Some((at, _)) => {
                self.framing = None;
                at
            }
            None => bytes.len(),
        };
        if passes == 0 && self.framing.is_none() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        into.put_slice(&bytes[..passes]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.got.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
