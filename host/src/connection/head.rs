//! The head of a request before a guest sees it: what HTTP demands of it and the
//! HTTP library does not check.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

/// An absolute target may have a query and no path, which stands for `/` (RFC 9110, 4.2.3).
pub(crate) fn add_missing_path<B>(request: &mut Request<B>) {
    if !request.uri().path_and_query().is_some_and(|target| target.as_str().starts_with('?')) {
        return;
    }
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    let whole = target.path_and_query.map(|target| format!("/{}", target.as_str()));
    target.path_and_query = whole.and_then(|whole| PathAndQuery::from_maybe_shared(whole).ok());
    // The parts were valid before, and a slash before a query is, too.
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
}

/// The host of a request that names none, which HTTP/1.0 allows, and HTTP/1.1 does not, see
/// `check`: `wasi:http` demands one.
pub(crate) fn add_missing_host<B>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_11
        && request.uri().authority().is_none()
        && !request.headers().contains_key(header::HOST)
    {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    }
}

/// Fields of a request over HTTP/2, which the HTTP library does not count. A cookie that is
/// split there (RFC 9113, 8.2.3) is one field.
pub(crate) fn fields<B>(request: &Request<B>) -> usize {
    if request.version() != Version::HTTP_2 {
        return 0;
    }
    let cookies = request.headers().get_all(header::COOKIE).iter().count();
    request.headers().len() - cookies.saturating_sub(1)
}

/// Checks the target, the host and the encoding of a request. The error is the rule that is
/// broken.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
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
