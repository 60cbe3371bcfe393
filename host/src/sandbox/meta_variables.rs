//! A request's head as gateways of all kinds give it to programs: the meta-variables of
//! CGI (RFC 3875, 4.1), which WSGI has under the same names (PEP 3333).

use std::fmt::Write;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, Request, header};
use http_body::Body;

use crate::connection::client::{self, CLIENT_HEADER};

/// Where the server listens, as far as that has an address and a port.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerAddress {
    name: Option<String>,
    port: Option<u16>,
}

impl ServerAddress {
    /// That of all interfaces is no name.
    pub(crate) fn of(address: SocketAddr) -> ServerAddress {
        let name = (!address.ip().is_unspecified()).then(|| match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        });
        ServerAddress { name, port: Some(address.port()) }
    }
}

/// Names and values in turn, each after a separator: a character that is in none of them.
/// The characters of a value are its bytes. WSGI's own name for a scheme is there if that is
/// not the usual one, and a name of ours if there is a body whose length nobody has said.
pub(crate) fn joined<B: Body>(request: &Request<B>, server: &ServerAddress) -> String {
    // A path can have any byte, since it is decoded; nothing else can have a zero. The
    // other one is no byte, but makes the text a wider one in Python.
    let separator = if request.uri().path().contains("%00") { '\u{2028}' } else { '\0' };
    let mut joined = String::with_capacity(1024);
    let mut add = |name: &str, value: &[u8]| {
        joined.push(separator);
        joined.push_str(name);
        joined.push(separator);
        match std::str::from_utf8(value) {
            Ok(text) if text.is_ascii() => joined.push_str(text),
            _ => joined.extend(value.iter().map(|&byte| char::from(byte))),
        }
    };
    each(request, server, &mut add);
    if client::is_https(request) {
        add("wsgi.url_scheme", b"https");
    }
    if !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        add("wasm_serve.length_unknown", b"1");
    }
    joined
}

/// Calls `add` with the name and the value of each.
pub(crate) fn each<B>(request: &Request<B>, server: &ServerAddress, mut add: impl FnMut(&str, &[u8])) {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // What `OPTIONS *` is about has no path: it is empty, or begins with a slash (RFC 3875, 4.1.5).
    let path = if path == "*" { "" } else { path };
    add("REQUEST_METHOD", request.method().as_str().as_bytes());
    add("REQUEST_URI", target.as_bytes());
    add("PATH_INFO", &percent_decoded(path));
    add("QUERY_STRING", query.as_bytes());
    let mut protocol = String::new();
    let _ = write!(protocol, "{:?}", request.version());
    add("SERVER_PROTOCOL", protocol.as_bytes());
    let host = authority(request);
    let (host_name, host_port) = split_port(host);
    add("SERVER_NAME", server.name.as_deref().unwrap_or(host_name).as_bytes());
    match server.port {
        Some(port) => add("SERVER_PORT", port.to_string().as_bytes()),
        None => {
            let usual = if client::is_https(request) { "443" } else { "80" };
            add("SERVER_PORT", host_port.unwrap_or(usual).as_bytes());
        }
    }
    if client::is_https(request) {
        add("HTTPS", b"on");
    }
    add("HTTP_HOST", host.as_bytes());
    let client = request.headers().get(CLIENT_HEADER).map_or(&b""[..], |client| client.as_bytes());
    // A client of a Unix socket has no address.
    add("REMOTE_ADDR", if client == b"unix" { b"" } else { client });
    add_fields(request.headers(), &mut add);
}

/// A field for each name: values of one that is repeated are joined (RFC 9110, 5.3, and
/// for cookies RFC 9113, 8.2.3).
fn add_fields(headers: &HeaderMap, add: &mut impl FnMut(&str, &[u8])) {
    for name in headers.keys() {
        let Some(variable) = variable(name) else { continue };
        let mut values = headers.get_all(name).iter();
        let first = values.next().map_or(&b""[..], |value| value.as_bytes());
        if values.size_hint().1 == Some(0) {
            add(&variable, first);
            continue;
        }
        let mut joined = first.to_vec();
        for value in values {
            joined.extend_from_slice(if name == header::COOKIE { b"; " } else { b", " });
            joined.extend_from_slice(value.as_bytes());
        }
        add(&variable, &joined);
    }
}

/// The name of a field's variable; none for those that a program must not take for
/// something else.
fn variable(name: &HeaderName) -> Option<String> {
    match name.as_str() {
        // It comes from the authority, which HTTP/2 has in its place.
        "host" => None,
        // Programs would take it for the proxy that they are to use.
        "proxy" => None,
        "content-type" => Some("CONTENT_TYPE".to_owned()),
        "content-length" => Some("CONTENT_LENGTH".to_owned()),
        // They are about the connection alone: the body is decoded, and trailers are nowhere.
        "connection"
        | "http2-settings"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade" => None,
        // It would have the variable of another field, which a proxy may vouch for.
        name if name.contains('_') => None,
        name => {
            let mut variable = String::with_capacity(5 + name.len());
            variable.push_str("HTTP_");
            variable.extend(name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_uppercase() }));
            Some(variable)
        }
    }
}

fn authority<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => {
            let host = request.headers().get(header::HOST);
            host.and_then(|host| host.to_str().ok()).unwrap_or("localhost")
        }
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (authority, None),
    }
}

/// A sequence that is not one of `%` and two digits stays as it is.
fn percent_decoded(path: &str) -> Vec<u8> {
    let mut rest = path.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match digits.and_then(|digits| std::str::from_utf8(digits).ok()) {
            Some(digits) if byte == b'%' => {
                decoded.push(u8::from_str_radix(digits, 16).expect("they are digits"));
                rest = &rest[2..];
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

/// Whether a variable of this name would be taken for one of a request: all that RFC 3875
/// has (4.1), what servers have beside it, and what says of which call a run is.
pub(crate) fn is_of_requests(name: &str) -> bool {
    const NAMES: [&str; 19] = [
        "AUTH_TYPE",
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "GATEWAY_INTERFACE",
        "HTTPS",
        "PATH_INFO",
        "PATH_TRANSLATED",
        "QUERY_STRING",
        "REMOTE_ADDR",
        "REMOTE_HOST",
        "REMOTE_IDENT",
        "REMOTE_USER",
        "REQUEST_METHOD",
        "REQUEST_URI",
        "SCRIPT_NAME",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
    ];
    name.starts_with("HTTP_") || name.starts_with("WASM_SERVE_") || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables(request: &Request<()>, server: &ServerAddress) -> BTreeMap<String, String> {
        let request = request.clone().map(|()| http_body_util::Empty::<bytes::Bytes>::new());
        let joined = joined(&request, server);
        let separator = joined.chars().next().unwrap();
        let texts: Vec<&str> = joined.split(separator).skip(1).collect();
        assert!(texts.len().is_multiple_of(2));
        let pairs: BTreeMap<_, _> =
            texts.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect();
        assert_eq!(pairs.len(), texts.len() / 2, "a name is there twice");
        pairs
    }

    #[test]
    fn every_variable_says_what_came() {
        let request = Request::get("/a%20b/%C3%A9%zz?x=%20")
            .header("host", "example.org:81")
            .header(CLIENT_HEADER, "192.0.2.1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("accept", "x")
            .header("accept", "y")
            .header("content-type", "text/plain")
            .header("proxy", "evil")
            .header("x_real_ip", "evil")
            .header("x-bytes", http::HeaderValue::from_bytes(b"\xe9").unwrap())
            .body(())
            .unwrap();
        let found = variables(&request, &ServerAddress::default());
        let expected = [
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/a%20b/%C3%A9%zz?x=%20"),
            ("PATH_INFO", "/a b/\u{c3}\u{a9}%zz"),
            ("QUERY_STRING", "x=%20"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", "example.org"),
            ("SERVER_PORT", "81"),
            ("HTTP_HOST", "example.org:81"),
            ("REMOTE_ADDR", "192.0.2.1"),
            ("HTTP_X_FORWARDED_FOR", "192.0.2.1"),
            ("HTTP_COOKIE", "a=1; b=2"),
            ("HTTP_ACCEPT", "x, y"),
            ("CONTENT_TYPE", "text/plain"),
            ("HTTP_X_BYTES", "\u{e9}"),
        ];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_client_cannot_add_a_variable() {
        for forged in ["%0A", "%0D%0A", "%00", "%E2%80%A8", "%00%E2%80%A8"] {
            let target = format!("/x{forged}REMOTE_ADDR{forged}192.0.2.9{forged}y");
            let request = Request::get(target).header(CLIENT_HEADER, "192.0.2.1").body(()).unwrap();
            let found = variables(&request, &ServerAddress::default());
            assert_eq!(found["REMOTE_ADDR"], "192.0.2.1");
            assert_eq!(found["REQUEST_METHOD"], "GET");
        }
    }

    #[test]
    fn a_path_begins_with_a_slash_or_is_empty() {
        for (target, path) in [("*", ""), ("/", "/"), ("/*", "/*"), ("http://h", "/"), ("http://h/*", "/*")] {
            let request = Request::options(target).header("host", "h").body(()).unwrap();
            assert_eq!(variables(&request, &ServerAddress::default())["PATH_INFO"], path, "{target}");
        }
    }

    #[test]
    fn every_variable_of_a_request_is_kept_for_requests() {
        let request = Request::post("/?x").header("content-type", "a").header("content-length", "0");
        let request = request.header("x-any", "1").body(()).unwrap();
        each(&request, &ServerAddress::default(), |name, _| assert!(is_of_requests(name), "{name}"));
        for name in ["PATH", "HTTP", "http_proxy", "HTTPS_PROXY", "CONTENT", "REMOTE"] {
            assert!(!is_of_requests(name), "{name}");
        }
    }

    #[test]
    fn the_servers_own_address_goes_before_what_the_client_calls_it() {
        let request =
            Request::get("/").header("host", "[::1]").header(CLIENT_HEADER, "unix").body(()).unwrap();
        let server = ServerAddress { name: Some("192.0.2.7".into()), port: Some(9090) };
        let found = variables(&request, &server);
        assert_eq!((&*found["SERVER_NAME"], &*found["SERVER_PORT"]), ("192.0.2.7", "9090"));
        assert_eq!(found["REMOTE_ADDR"], "");
        let found = variables(&request, &ServerAddress::default());
        assert_eq!((&*found["SERVER_NAME"], &*found["SERVER_PORT"]), ("[::1]", "80"));
    }
}
