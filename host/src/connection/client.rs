//! Whose request it is: the other end of the connection, or whom a trusted proxy names.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use ipnet::IpNet;

/// Who is believed what it says of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// A proxy that connects from an address of this network, which may be a single one.
    Network(IpNet),
    /// Every client of a Unix socket.
    Unix,
}

impl FromStr for TrustedProxy {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<TrustedProxy> {
        if text == "unix" {
            return Ok(TrustedProxy::Unix);
        }
        Ok(TrustedProxy::Network(network(text)?))
    }
}

/// An address, or a network by its first address and the bits that its addresses share.
fn network(text: &str) -> Result<IpNet> {
    let expected = "expected an IP address, a network such as 10.0.0.0/8, or `unix`";
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().context(expected)?,
    };
    let first = network.trunc();
    ensure!(network == first, "{network} is an address within a network; the network is {first}");
    // IPv4 in the clothes of IPv6 is IPv4, as with clients.
    let bits = network.prefix_len();
    match network.addr().to_canonical() {
        IpAddr::V4(address) if bits >= 96 && network.addr().is_ipv6() => {
            Ok(IpNet::new(address.into(), bits - 96)?)
        }
        _ => Ok(network),
    }
}

/// The header in which a guest finds the client's address: one IP address, or
/// `unix` for a client of a Unix socket. A client's own is removed, unless it is
/// a trusted proxy.
pub(crate) const CLIENT_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which a trusted proxy says by which scheme its client came, and in which
/// guests find it then. Any other client's is removed.
const SCHEME_HEADER: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Among a request's extensions, which most requests do not have: its client came by TLS to
/// the trusted proxy.
#[derive(Clone, Copy)]
struct Https;

/// Whether the request came by `https`.
pub(crate) fn is_https<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Https>().is_some()
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct ClientAddress {
    /// Its address, as a guest sees it.
    text: HeaderValue,
    is_trusted_proxy: bool,
}

impl ClientAddress {
    pub(crate) fn new(address: Option<IpAddr>, trusted: &[TrustedProxy]) -> ClientAddress {
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

    pub(crate) fn is_trusted_proxy(&self) -> bool {
        self.is_trusted_proxy
    }

    /// Writes the client's address into the head, and returns it. What else only a proxy
    /// can know is removed, unless a trusted one says it.
    pub(crate) fn sign<B>(&self, request: &mut Request<B>) -> HeaderValue {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Fields, and what becomes of them with a proxy that is trusted.
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, bool, &'a str);

    fn check(rows: &[Row<'_>]) {
        for &(fields, address, is_https, about) in rows {
            let expected = (address.to_owned(), is_https, about.to_owned());
            assert_eq!(signed(None, &["unix"], fields), expected, "{fields:?}");
            let expected = ("192.0.2.7".to_owned(), false, ";".to_owned());
            assert_eq!(signed(Some("192.0.2.7"), &["unix"], fields), expected, "{fields:?}, not trusted");
        }
    }

    #[test]
    fn a_scheme_and_an_address_are_those_that_the_last_proxy_says() {
        let (address, proto, forwarded) = ("x-forwarded-for", "x-forwarded-proto", "forwarded");
        check(&[
            (&[], "unix", false, ";"),
            (&[(proto, "https")], "unix", true, "https;"),
            (&[(proto, "HTTPS")], "unix", true, "https;"),
            (&[(proto, "http")], "unix", false, "http;"),
            (&[(proto, "https, http")], "unix", false, "http;"),
            (&[(proto, "http"), (proto, "https")], "unix", true, "https;"),
            (&[(proto, "wss")], "unix", false, ";"),
            // One that a client made up, and a proxy that does not know the field left.
            (&[(address, "1.2.3.4"), (forwarded, "for=9.9.9.9;proto=https")], "1.2.3.4", false, ";"),
            (&[(proto, "http"), (forwarded, "for=9.9.9.9;proto=https")], "unix", false, "http;"),
        ]);
    }

    #[test]
    fn the_last_element_of_forwarded_is_the_one_to_believe() {
        let forwarded = "forwarded";
        check(&[
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
        ]);
    }
}
