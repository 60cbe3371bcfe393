//! The head of a request before a guest sees it: what HTTP demands of it and the
//! HTTP library does not check, and whose request it is.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use crate::config::TrustedProxy;

/// The header in which a guest finds the client's address: one IP address, or
/// `unix` for a client of a Unix socket. A client's own is removed, unless it is
/// a trusted proxy.
pub const CLIENT_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");

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
            TrustedProxy::Ip(ip) => Some(ip.to_canonical()) == address,
            TrustedProxy::Unix => address.is_none(),
        });
        ClientAddress { text, is_trusted_proxy }
    }

    pub fn is_trusted_proxy(&self) -> bool {
        self.is_trusted_proxy
    }

    /// Writes the client's address into the head, and returns it. A trusted
    /// proxy appends the address that it saw to the header: so the last one is
    /// the one to believe.
    pub fn sign(&self, headers: &mut HeaderMap) -> HeaderValue {
        let told = if self.is_trusted_proxy { last_address(headers) } else { None };
        let client = told.unwrap_or_else(|| self.text.clone());
        headers.insert(CLIENT_HEADER, client.clone());
        client
    }
}

fn last_address(headers: &HeaderMap) -> Option<HeaderValue> {
    let last = headers.get_all(CLIENT_HEADER).iter().next_back()?;
    let address: IpAddr = last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()?;
    HeaderValue::try_from(address.to_string()).ok()
}

/// The host of a request that names none, which HTTP/1.0 allows: `wasi:http`
/// demands one.
pub fn add_missing_host<B>(request: &mut Request<B>) {
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    }
}

/// Checks the target and the host of a request. The error is the rule that is
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
    check_target(request.method(), request.uri())
}

fn check_target(method: &Method, uri: &Uri) -> Result<(), &'static str> {
    let is_asterisk = uri.path() == "*" && uri.authority().is_none();
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
    fn the_asterisk_is_for_options() {
        assert_eq!(check(&request(&["a"], Version::HTTP_11, Method::OPTIONS, "*")), Ok(()));
        assert!(check(&request(&["a"], Version::HTTP_11, Method::GET, "*")).is_err());
        assert!(check(&request(&["a"], Version::HTTP_11, Method::CONNECT, "a:80")).is_err());
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let trusted = [TrustedProxy::Ip(proxy)];
        let sign = |peer: Option<IpAddr>, told: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in told {
                headers.append(CLIENT_HEADER, HeaderValue::from_str(value).unwrap());
            }
            ClientAddress::new(peer, &trusted).sign(&mut headers);
            let all: Vec<_> =
                headers.get_all(CLIENT_HEADER).iter().map(|v| v.to_str().unwrap().to_owned()).collect();
            all.join("|")
        };
        let stranger: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(sign(Some(stranger), &["1.2.3.4"]), "192.0.2.7");
        assert_eq!(sign(Some(proxy), &["9.9.9.9, 1.2.3.4"]), "1.2.3.4");
        assert_eq!(sign(Some(proxy), &["9.9.9.9", "1.2.3.4"]), "1.2.3.4");
        assert_eq!(sign(Some(proxy), &["nonsense"]), "10.0.0.1");
        assert_eq!(sign(Some("::ffff:10.0.0.1".parse().unwrap()), &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(sign(None, &["1.2.3.4"]), "unix");
    }
}
