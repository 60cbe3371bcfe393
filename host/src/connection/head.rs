//! The head of a request before a guest sees it: what HTTP demands of it and the
//! HTTP library does not check, and whose request it is.

use std::net::IpAddr;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use crate::config::TrustedProxy;

/// The header in which a guest finds the client's address: one IP address, or
/// `unix` for a client of a Unix socket. A client's own is removed, unless it is
/// a trusted proxy.
pub const CLIENT_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which a trusted proxy says by which scheme its client came, and in which
/// guests find it then. Any other client's is removed.
const SCHEME_HEADER: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Among a request's extensions, which most requests do not have: its client came by TLS to
/// the trusted proxy.
#[derive(Clone, Copy)]
struct Https;

/// Whether the request came by `https`.
pub fn is_https<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Https>().is_some()
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct ClientAddress {
    /// Its address, as a guest sees it.
    text: HeaderValue,
    is_trusted_proxy: bool,
}

impl ClientAddress {
    pub fn new(address: Option<IpAddr>, trusted: &[TrustedProxy]) -> ClientAddress {
        // An IPv4 client of an IPv6 socket has an IPv4 address all the same.
        let address = address.map(|address| address.to_canonical());
        let text = address.map_or("unix".to_owned(), |address| address.to_string());
        let text = HeaderValue::try_from(text).expect("an address is made of visible characters");
        let is_trusted_proxy = trusted.iter().any(|proxy| match proxy {
            TrustedProxy::Network(network) => address.is_some_and(|address| network.contains(&address)),
            TrustedProxy::Unix => address.is_none(),
        });
        ClientAddress { text, is_trusted_proxy }
    }

    pub fn is_trusted_proxy(&self) -> bool {
        self.is_trusted_proxy
    }

    /// Writes the client's address into the head, and returns it. What else only a proxy
    /// can know is removed, unless a trusted one says it.
    pub fn sign<B>(&self, request: &mut Request<B>) -> HeaderValue {
        let headers = request.headers_mut();
        let told = if self.is_trusted_proxy { Told::by_proxy(headers) } else { Told::default() };
        let client = told.address.unwrap_or_else(|| self.text.clone());
        headers.insert(CLIENT_HEADER, client.clone());
        match told.scheme {
            Some(scheme) => drop(headers.insert(SCHEME_HEADER, HeaderValue::from_static(scheme))),
            None => drop(headers.remove(SCHEME_HEADER)),
        }
        if !told.is_forwarded {
            headers.remove(header::FORWARDED);
        }
        if told.scheme == Some("https") {
            request.extensions_mut().insert(Https);
        }
        client
    }
}

/// What a trusted proxy says of its client.
#[derive(Default)]
struct Told {
    address: Option<HeaderValue>,
    scheme: Option<&'static str>,
    /// It says so in `Forwarded`.
    is_forwarded: bool,
}

impl Told {
    /// A proxy appends what it saw to these fields: so the last value is the one to believe.
    /// One that writes `X-Forwarded-For` or `X-Forwarded-Proto` may leave its client's own
    /// `Forwarded` (RFC 7239) as it is: so that counts only where there is neither.
    fn by_proxy(headers: &HeaderMap) -> Told {
        let (address, scheme) = (last(headers, &CLIENT_HEADER), last(headers, &SCHEME_HEADER));
        if address.is_some() || scheme.is_some() {
            let address = address.and_then(|text| text.parse().ok()).and_then(address_value);
            return Told { address, scheme: scheme.and_then(scheme_named), is_forwarded: false };
        }
        let Some(forwarded) = headers.get_all(header::FORWARDED).iter().next_back() else {
            return Told::default();
        };
        let elements = forwarded.to_str().ok().and_then(|text| split(text, b','));
        let parameters = elements.and_then(|elements| split(elements.last()?, b';')).unwrap_or_default();
        let address = parameter(&parameters, "for").and_then(node_address).and_then(address_value);
        let scheme = parameter(&parameters, "proto").and_then(scheme_named);
        Told { address, scheme, is_forwarded: true }
    }
}

/// The last of the values in all fields of this name.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let last = headers.get_all(name).iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next().map(str::trim)
}

fn address_value(address: IpAddr) -> Option<HeaderValue> {
    HeaderValue::try_from(address.to_string()).ok()
}

fn scheme_named(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// The pieces between separators that are not in quotes (RFC 9110, 5.6.4): a client writes
/// what its proxy quotes. None if a quote does not end.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                pieces.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    (!is_quoted).then_some(pieces)
}

/// One of the parameters of an element of `Forwarded`, which may be quoted (RFC 7239, 4).
fn parameter<'a>(parameters: &[&'a str], name: &str) -> Option<&'a str> {
    let mut pairs = parameters.iter().filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
    let value = value.trim();
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// The address of a node, which may have a port; one of IPv6 is in brackets (RFC 7239, 6).
fn node_address(node: &str) -> Option<IpAddr> {
    match node.strip_prefix('[') {
        Some(node) => node.split(']').next()?.parse().ok(),
        None => node.split(':').next()?.parse().ok(),
    }
}

/// An absolute target may have a query and no path, which stands for `/` (RFC 9110, 4.2.3).
pub fn add_missing_path<B>(request: &mut Request<B>) {
    if !request.uri().path_and_query().is_some_and(|target| target.as_str().starts_with('?')) {
        return;
    }
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    let whole = target.path_and_query.map(|target| format!("/{}", target.as_str()));
    target.path_and_query = whole.and_then(|whole| PathAndQuery::from_maybe_shared(whole).ok());
    // The parts were valid before, and a slash before a query is, too.
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
}

/// The host of a request that names none, which HTTP/1.0 allows: `wasi:http`
/// demands one.
pub fn add_missing_host<B>(request: &mut Request<B>) {
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    }
}

/// Fields of a request over HTTP/2, which the HTTP library does not count. A cookie that is
/// split there (RFC 9113, 8.2.3) is one field.
pub fn fields<B>(request: &Request<B>) -> usize {
    if request.version() != Version::HTTP_2 {
        return 0;
    }
    let cookies = request.headers().get_all(header::COOKIE).iter().count();
    request.headers().len() - cookies.saturating_sub(1)
}

/// Checks the target, the host and the encoding of a request. The error is the rule that is
/// broken.
pub fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one Host (RFC 9112, 3.2)");
    }
    // HTTP/2 has `:authority` instead, HTTP/1.0 neither.
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err("no Host (RFC 9112, 3.2)");
    }
    if host.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err("a malformed Host (RFC 9112, 3.2)");
    }
    if request.method() != Method::CONNECT
        && request.uri().authority().is_some_and(|a| !is_host(a.as_str().as_bytes()))
    {
        return Err("a malformed authority (RFC 9110, 7.2)");
    }
    check_encoding(request.headers())?;
    check_target(request.method(), request.uri())
}

/// We know one encoding, `chunked`, which is never applied twice. Another reader may
/// understand a list of them in another way.
fn check_encoding(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err("a Transfer-Encoding other than `chunked` (RFC 9112, 6.1)"),
    }
}

fn check_target(method: &Method, uri: &Uri) -> Result<(), &'static str> {
    // The HTTP library takes UTF-8 for good.
    if !uri.path_and_query().is_none_or(|target| target.as_str().is_ascii()) {
        return Err("a target that is not ASCII (RFC 3986, 2)");
    }
    let is_asterisk = uri.path() == "*" && uri.authority().is_none();
    if uri.authority().is_some() && uri.scheme().is_none() && *method != Method::CONNECT {
        return Err("a target that is neither a path nor a URL (RFC 9112, 3.2)");
    }
    match *method {
        Method::CONNECT => Err("CONNECT is for proxies (RFC 9110, 9.3.6)"),
        Method::OPTIONS => Ok(()),
        _ if is_asterisk => Err("the target `*` is for OPTIONS (RFC 9112, 3.2.4)"),
        _ => Ok(()),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110, 7.2), not empty, since the schemes that we
/// serve demand a host (RFC 9110, 4.2.1).
fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !text[colon..].contains(&b']') => (&text[..colon], &text[colon + 1..]),
        _ => (text, &text[text.len()..]),
    };
    let is_port = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let is_name = |name: &[u8]| {
        !name.is_empty()
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte))
    };
    let is_literal = |name: &[u8]| match name {
        [b'[', inside @ .., b']'] => {
            !inside.is_empty()
                && inside.iter().all(|byte| byte.is_ascii_alphanumeric() || b":.-_~".contains(byte))
        }
        _ => false,
    };
    is_port && (is_name(host) || is_literal(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(hosts: &[&str], version: Version, method: Method, target: &str) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn exactly_one_well_formed_host() {
        let good = ["a", "a.example", "a.example:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:8080"];
        for host in good {
            assert_eq!(check(&request(&[host], Version::HTTP_11, Method::GET, "/")), Ok(()), "{host}");
        }
        let bad = ["", ":80", "user@a", "a/b", "a,b", "a b", "a:b", "a:1:2", "[::1", "::1", "a:123456", "[]"];
        for host in bad {
            assert!(check(&request(&[host], Version::HTTP_11, Method::GET, "/")).is_err(), "{host}");
        }
        assert!(check(&request(&[], Version::HTTP_11, Method::GET, "/")).is_err());
        assert!(check(&request(&["a", "a"], Version::HTTP_11, Method::GET, "/")).is_err());
        assert_eq!(check(&request(&[], Version::HTTP_10, Method::GET, "/")), Ok(()));
        assert_eq!(check(&request(&[], Version::HTTP_2, Method::GET, "http://a/")), Ok(()));
    }

    #[test]
    fn chunked_is_the_only_encoding() {
        let with = |values: &[&'static str]| {
            let mut request = request(&["a"], Version::HTTP_11, Method::POST, "/");
            for value in values {
                request.headers_mut().append(header::TRANSFER_ENCODING, HeaderValue::from_static(value));
            }
            check(&request)
        };
        assert_eq!((with(&[]), with(&["Chunked"])), (Ok(()), Ok(())));
        for bad in
            [&["chunked, chunked"][..], &["gzip, chunked"], &["chunked", "chunked"], &["identity"], &[""]]
        {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_target_is_ascii() {
        assert!(check(&request(&["a"], Version::HTTP_11, Method::GET, "/\u{e9}")).is_err());
        assert!(check(&request(&["a"], Version::HTTP_11, Method::GET, "/?\u{e9}")).is_err());
        assert_eq!(check(&request(&["a"], Version::HTTP_11, Method::GET, "/%c3%a9?%e9")), Ok(()));
    }

    #[test]
    fn the_asterisk_is_for_options() {
        assert_eq!(check(&request(&["a"], Version::HTTP_11, Method::OPTIONS, "*")), Ok(()));
        assert!(check(&request(&["a"], Version::HTTP_11, Method::GET, "*")).is_err());
        assert!(check(&request(&["a"], Version::HTTP_11, Method::CONNECT, "a:80")).is_err());
    }

    /// What becomes of a request with these fields, from a client at `peer`: the address that
    /// a guest is told, whether it came by `https`, and the fields about its way.
    fn signed(peer: Option<&str>, trusted: &[&str], fields: &[(&str, &str)]) -> (String, bool, String) {
        let trusted: Vec<TrustedProxy> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let mut request = Request::new(());
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        let peer = peer.map(|peer| peer.parse().unwrap());
        let address = ClientAddress::new(peer, &trusted).sign(&mut request);
        let all: Vec<_> = request.headers().get_all(CLIENT_HEADER).iter().collect();
        assert_eq!(all, [&address]);
        let of = |name: &HeaderName| -> String {
            let values = request.headers().get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join("|")
        };
        let about = format!("{};{}", of(&SCHEME_HEADER), of(&header::FORWARDED));
        (address.to_str().unwrap().to_owned(), is_https(&request), about)
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let rows = [
            (Some("192.0.2.7"), &["1.2.3.4"][..], "192.0.2.7"),
            (Some("10.0.0.1"), &["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
            (Some("10.0.0.1"), &["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
            (Some("10.0.0.1"), &["nonsense"], "10.0.0.1"),
            (Some("::ffff:10.0.0.1"), &["2001:db8::1"], "2001:db8::1"),
            (None, &["1.2.3.4"], "unix"),
        ];
        for (peer, told, expected) in rows {
            let fields: Vec<_> = told.iter().map(|value| ("x-forwarded-for", *value)).collect();
            assert_eq!(signed(peer, &["10.0.0.1"], &fields).0, expected, "{peer:?} {told:?}");
        }
    }

    #[test]
    fn a_network_of_proxies_is_trusted_as_a_whole() {
        let rows = [
            ("10.0.0.0/8", "10.200.3.4", true),
            ("10.0.0.0/8", "::ffff:10.200.3.4", true),
            ("::ffff:10.0.0.0/104", "10.200.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:7::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "192.0.2.6", true),
            ("unix", "192.0.2.6", false),
        ];
        for (trusted, peer, is_trusted) in rows {
            let (address, ..) = signed(Some(peer), &[trusted], &[("x-forwarded-for", "1.2.3.4")]);
            assert_eq!(address == "1.2.3.4", is_trusted, "{trusted} {peer}");
        }
    }

    #[test]
    fn a_scheme_and_an_address_are_those_that_the_last_proxy_says() {
        let (address, proto, forwarded) = ("x-forwarded-for", "x-forwarded-proto", "forwarded");
        let rows: [(&[_], _, _, _); 14] = [
            (&[], "unix", false, ";"),
            (&[(proto, "https")], "unix", true, "https;"),
            (&[(proto, "HTTPS")], "unix", true, "https;"),
            (&[(proto, "http")], "unix", false, "http;"),
            (&[(proto, "https, http")], "unix", false, "http;"),
            (&[(proto, "http"), (proto, "https")], "unix", true, "https;"),
            (&[(proto, "wss")], "unix", false, ";"),
            (
                &[(forwarded, "for=9.9.9.9;proto=http, For=\"1.2.3.4:80\"; Proto=https")],
                "1.2.3.4",
                true,
                "https;for=9.9.9.9;proto=http, For=\"1.2.3.4:80\"; Proto=https",
            ),
            (
                &[(forwarded, "for=\"[2001:db8::1]:4711\"")],
                "2001:db8::1",
                false,
                ";for=\"[2001:db8::1]:4711\"",
            ),
            (
                &[(forwarded, "for=_hidden;proto=\"https\"")],
                "unix",
                true,
                "https;for=_hidden;proto=\"https\"",
            ),
            // What a client wrote, and its proxy quotes.
            (
                &[(forwarded, "for=1.2.3.4;proto=http;host=\"a,for=6.6.6.6;proto=https;x=\"")],
                "1.2.3.4",
                false,
                "http;for=1.2.3.4;proto=http;host=\"a,for=6.6.6.6;proto=https;x=\"",
            ),
            (
                &[(forwarded, "for=1.2.3.4;host=\"\\\";proto=https")],
                "unix",
                false,
                ";for=1.2.3.4;host=\"\\\";proto=https",
            ),
            // One that a client made up, and a proxy that does not know the field left.
            (&[(address, "1.2.3.4"), (forwarded, "for=9.9.9.9;proto=https")], "1.2.3.4", false, ";"),
            (&[(proto, "http"), (forwarded, "for=9.9.9.9;proto=https")], "unix", false, "http;"),
        ];
        for (fields, address, is_https, about) in rows {
            let expected = (address.to_owned(), is_https, about.to_owned());
            assert_eq!(signed(None, &["unix"], fields), expected, "{fields:?}");
            let expected = ("192.0.2.7".to_owned(), false, ";".to_owned());
            assert_eq!(signed(Some("192.0.2.7"), &["unix"], fields), expected, "{fields:?}, not trusted");
        }
    }

    #[test]
    fn a_query_without_a_path_has_the_root() {
        for (target, expected) in [
            ("http://h?x=1", "/?x=1"),
            ("http://h?", "/?"),
            ("http://h/a?x", "/a?x"),
            ("/?x", "/?x"),
            ("*", "*"),
        ] {
            let mut request = request(&["h"], Version::HTTP_11, Method::OPTIONS, target);
            let authority = request.uri().authority().cloned();
            add_missing_path(&mut request);
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), expected, "{target}");
            assert_eq!(request.uri().authority(), authority.as_ref(), "{target}");
        }
    }
}
