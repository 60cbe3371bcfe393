//! What guests may connect to: destinations, as `--allow-outbound` names them.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use super::addresses;
use super::destination::{Destination, Target, UDP, name, port_of};

/// What somebody who asks for no more than a destination may mean.
const FORM: &str =
    "expected SCHEME://HOST[:PORT], such as https://api.example.com, postgres://10.0.0.0/8 or *://*:443";

/// One destination, or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// None for any.
    scheme: Option<String>,
    host: Host,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Name(String),
    /// All names that end in this, which begins with a dot.
    Below(String),
    Addresses(IpNet),
}

impl Grant {
    /// Whether a socket, or a request by this scheme, is granted at this port.
    fn is_for(&self, scheme: Option<&str>, port: u16) -> bool {
        let is_scheme = match (&self.scheme, scheme) {
            (Some(granted), Some(scheme)) => granted == scheme,
            (Some(granted), None) => granted != UDP,
            (None, _) => true,
        };
        is_scheme && self.ports.contains(&port)
    }

    fn has_address(&self, address: IpAddr) -> bool {
        matches!(&self.host, Host::Addresses(range) if range.contains(&address))
    }

    /// Whether both are for some connection.
    fn meets(&self, other: &Grant) -> bool {
        let (one, two) = (self.scheme.as_deref(), other.scheme.as_deref());
        let have_one_scheme = one.is_none() || two.is_none() || (one == Some(UDP)) == (two == Some(UDP));
        have_one_scheme && self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end()
    }

    fn has_name(&self, name: &str) -> bool {
        match &self.host {
            Host::Any => true,
            Host::Name(granted) => granted == name,
            Host::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
            Host::Addresses(_) => false,
        }
    }
}

impl FromStr for Grant {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Grant> {
        let (scheme, rest) = text.split_once("://").context(FORM)?;
        let scheme = match scheme {
            "*" => None,
            _ => Some(scheme_name(scheme)?),
        };
        ensure!(!rest.contains('@'), "a destination has no user and no password");
        ensure!(!rest.contains(['?', '#']), "a destination has no query; {FORM}");
        let (host, port) = split_port(rest)?;
        let host = Host::parse(host)?;
        let ports = match (port, &scheme) {
            (Some("*"), _) => 1..=u16::MAX,
            (Some(ports), _) => parse_ports(ports)?,
            (None, None) => bail!("the port is missing, such as 443, 8000-8080 or *"),
            (None, Some(scheme)) => {
                let port = port_of(scheme);
                let port =
                    port.with_context(|| format!("{scheme} has no usual port; name one, as in {text}:1234"))?;
                port..=port
            }
        };
        Ok(Grant { scheme, host, ports })
    }
}

impl Host {
    fn parse(text: &str) -> Result<Host> {
        if text == "*" {
            return Ok(Host::Any);
        }
        if let Some(below) = text.strip_prefix("*.") {
            return Ok(Host::Below(format!(".{}", name(below)?)));
        }
        ensure!(!text.contains('*'), "a * stands for a whole host, or for what is before the first dot");
        // The brackets may be around the address alone, or around the range.
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let text = bare.filter(|bare| bare.contains('/')).unwrap_or(text);
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        match (Target::parse(address)?, prefix) {
            (Target::Name(name), None) => Ok(Host::Name(name)),
            (Target::Name(_), Some(_)) => bail!("a destination has no path; {FORM}"),
            (Target::Address(address), prefix) => {
                let bits = match prefix {
                    Some(prefix) => prefix.parse().context("expected a number of bits after the /")?,
                    None if address.is_ipv4() => 32,
                    None => 128,
                };
                Ok(Host::Addresses(IpNet::new(address, bits).context("so many bits has no address")?.trunc()))
            }
        }
    }
}

/// All that is granted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    pub grants: Vec<Grant>,
    /// Names that are granted may have addresses that are not public.
    pub private: bool,
}

impl Grants {
    pub(crate) fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// Whether anything may be sent by UDP.
    pub(super) fn have_udp(&self) -> bool {
        self.grants.iter().any(|grant| grant.scheme.as_deref().is_none_or(|scheme| scheme == UDP))
    }

    /// Whether a name may be looked up, to be connected to at whatever port.
    pub(super) fn allow_lookup(&self, name: &str) -> bool {
        self.grants.iter().any(|grant| grant.has_name(name))
    }

    /// Whether such a name may be connected to by this address, at whatever port.
    pub(super) fn allow_found(&self, name: &str, address: IpAddr) -> bool {
        let address = addresses::canonical(address);
        let mut named = self.grants.iter().filter(|grant| grant.has_name(name));
        if addresses::is_public(address) || self.private {
            return named.next().is_some();
        }
        let is_in_range = |range: &Grant, named: &Grant| range.has_address(address) && range.meets(named);
        named.any(|named| self.grants.iter().any(|range| is_in_range(range, named)))
    }

    /// Whether it is granted, as far as it is known without its addresses.
    pub(crate) fn allow(&self, destination: &Destination) -> bool {
        match &destination.host {
            Target::Name(name) => self.named(destination).any(|grant| grant.has_name(name)),
            Target::Address(address) => self.allow_address(destination, *address),
        }
    }

    /// Whether it may be connected to by this address.
    pub(crate) fn allow_address(&self, destination: &Destination, address: IpAddr) -> bool {
        let address = addresses::canonical(address);
        let is_by_name = match &destination.host {
            Target::Name(name) => self.named(destination).any(|grant| grant.has_name(name)),
            Target::Address(_) => false,
        };
        let is_anywhere = self.named(destination).any(|grant| grant.host == Host::Any);
        let ranges = self.named(destination).any(|grant| grant.has_address(address));
        match (&destination.host, addresses::is_public(address)) {
            (Target::Name(_), true) => is_by_name,
            (Target::Name(_), false) => is_by_name && (self.private || ranges),
            (Target::Address(_), true) => is_anywhere || ranges,
            (Target::Address(_), false) => ranges || (is_anywhere && self.private),
        }
    }

    fn named(&self, destination: &Destination) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.is_for(destination.scheme.as_deref(), destination.port))
    }
}

fn scheme_name(text: &str) -> Result<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    ensure!(begins && text.chars().all(is_good), "{text:?} is no scheme; {FORM}");
    Ok(text.to_ascii_lowercase())
}

/// The host, and the port if there is one.
fn split_port(text: &str) -> Result<(&str, Option<&str>)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    // An address of IPv6 has colons of its own.
    let end = text.rfind(']').map_or(0, |end| end + 1);
    Ok(match text[end..].split_once(':') {
        Some((before, port)) => (&text[..end + before.len()], Some(port)),
        None => (text, None),
    })
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>> {
    let port = |text: &str| -> Result<u16> {
        let port = text.parse().ok().filter(|port| *port > 0);
        port.context("expected a port from 1 to 65535, a range such as 8000-8080, or *")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    ensure!(first <= last, "the first port of a range comes first");
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        let grants = texts.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")));
        Grants { grants: grants.collect(), private: false }
    }

    /// A request's, or a socket's by the scheme `-`.
    fn destination(text: &str) -> Destination {
        let (scheme, rest) = text.split_once("://").unwrap();
        let (host, port) = rest.rsplit_once(':').unwrap();
        let scheme = (scheme != "-").then(|| scheme.to_owned());
        Destination { scheme, host: Target::parse(host).unwrap(), port: port.parse().unwrap() }
    }

    /// What is granted, what of that is meant, and what is not.
    const DESTINATIONS: [(&str, &[&str], &[&str]); 15] = [
        (
            "https://api.example.com",
            &["https://api.example.com:443", "https://API.Example.COM.:443", "-://api.example.com:443"],
            &[
                "http://api.example.com:80",
                "https://api.example.com:8443",
                "http://api.example.com:443",
                "https://example.com:443",
                "https://x.api.example.com:443",
                "https://api.example.com.evil.test:443",
                "-://api.example.com:80",
                "https://1.1.1.1:443",
            ],
        ),
        ("HTTPS://API.example.com./", &["https://api.example.com:443"], &["http://api.example.com:80"]),
        (
            "*://*.example.com:8000-8080",
            &["http://a.example.com:8000", "https://a.b.example.com:8080", "-://a.example.com:8040"],
            &[
                "http://example.com:8000",
                "http://aexample.com:8000",
                "http://a.example.com:7999",
                "http://a.example.com:8081",
            ],
        ),
        (
            "http://*:*",
            &["http://any.test:1", "http://8.8.8.8:65535"],
            &["http://10.0.0.1:80", "https://any.test:443"],
        ),
        ("postgres://db.test", &["-://db.test:5432"], &["http://db.test:5432", "-://db.test:5433"]),
        (
            "postgres://10.0.0.0/8",
            &["-://10.255.0.1:5432", "-://[::ffff:10.1.1.1]:5432"],
            &["-://11.0.0.1:5432", "-://name.test:5432"],
        ),
        (
            "*://127.0.0.1:80",
            &["http://127.0.0.1:80", "http://[::ffff:127.0.0.1]:80", "http://[::ffff:7f00:1]:80"],
            &["http://127.0.0.2:80", "http://localhost:80", "http://[::1]:80", "http://[64:ff9b::7f00:1]:80"],
        ),
        ("*://[::1]:80", &["http://[::1]:80", "http://[0:0:0:0:0:0:0:1]:80"], &["http://127.0.0.1:80"]),
        ("*://[fd00::/8]:80", &["http://[fd12::1]:80"], &["http://[fe80::1]:80"]),
        ("*://[fd00::]/8:80", &["http://[fd12::1]:80"], &["http://[fe80::1]:80"]),
        (
            "https://bücher.example",
            &["https://xn--bcher-kva.example:443", "https://BÜCHER.example:443"],
            &["https://bucher.example:443"],
        ),
        ("redis://cache_1.internal", &["-://cache_1.internal:6379"], &["udp://cache_1.internal:6379"]),
        ("tcp://db.test:1", &["-://db.test:1"], &["http://db.test:1", "udp://db.test:1"]),
        ("udp://ns.test:53", &["udp://ns.test:53"], &["-://ns.test:53", "http://ns.test:53"]),
        ("*://ns.test:53", &["udp://ns.test:53", "-://ns.test:53"], &["udp://ns.test:54"]),
    ];

    #[test]
    fn destinations_are_granted_by_scheme_host_and_port() {
        for (granted, good, bad) in DESTINATIONS {
            let grants = grants(&[granted]);
            for text in good {
                assert!(grants.allow(&destination(text)), "{granted} is for {text}");
            }
            for text in bad {
                assert!(!grants.allow(&destination(text)), "{granted} is not for {text}");
            }
        }
    }

    #[test]
    fn addresses_of_names_are_public_or_granted_themselves() {
        let named = grants(&["https://a.test"]);
        let with_range = grants(&["https://a.test", "*://10.0.0.0/8:443"]);
        let with_other_port = grants(&["https://a.test", "*://10.0.0.0/8:80"]);
        let private = Grants { private: true, ..named.clone() };
        let anything = grants(&["*://*:*"]);
        let rows = [
            ("8.8.8.8", [true, true, true, true, true]),
            ("10.0.0.1", [false, true, false, true, false]),
            ("::ffff:10.0.0.1", [false, true, false, true, false]),
            ("127.0.0.1", [false, false, false, true, false]),
            ("169.254.169.254", [false, false, false, true, false]),
            ("64:ff9b::a00:1", [false, false, false, true, false]),
        ];
        let destination = destination("https://a.test:443");
        for (address, expected) in rows {
            let allowed = [&named, &with_range, &with_other_port, &private, &anything]
                .map(|grants| grants.allow_address(&destination, address.parse().unwrap()));
            assert_eq!(allowed, expected, "{address}");
        }
    }

    #[test]
    fn names_are_looked_up_and_told_as_far_as_they_are_granted() {
        let named = grants(&["tcp://a.test:1", "https://*.b.test"]);
        for (name, expected) in [("a.test", true), ("x.b.test", true), ("b.test", false), ("c.test", false)] {
            assert_eq!(named.allow_lookup(name), expected, "{name}");
            assert_eq!(named.allow_found(name, "8.8.8.8".parse().unwrap()), expected, "{name}");
            assert!(!named.allow_found(name, "10.0.0.1".parse().unwrap()), "{name}");
        }
        let private = Grants { private: true, ..named };
        assert!(private.allow_found("a.test", "10.0.0.1".parse().unwrap()));
        assert!(!private.allow_found("c.test", "10.0.0.1".parse().unwrap()));
        let with_range = grants(&["tcp://a.test:5-9", "*://10.0.0.0/8:9", "https://b.test"]);
        assert!(with_range.allow_found("a.test", "10.0.0.1".parse().unwrap()));
        assert!(with_range.allow_found("a.test", "::ffff:10.0.0.1".parse().unwrap()));
        assert!(!with_range.allow_found("a.test", "127.0.0.1".parse().unwrap()));
        // The port is another one.
        assert!(!with_range.allow_found("b.test", "10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn udp_is_granted_by_its_name_alone() {
        for (granted, expected) in
            [("udp://a.test:1", true), ("*://a.test:1", true), ("https://a.test", false)]
        {
            assert_eq!(grants(&[granted]).have_udp(), expected, "{granted}");
        }
    }

    #[test]
    fn what_is_no_destination_says_what_is_wrong() {
        let rows = [
            ("example.com", "SCHEME://HOST"),
            ("https://", "no name"),
            ("https://user@example.com", "no user"),
            ("https://example.com/path", "no path"),
            ("https://example.com?x", "no query"),
            ("https://exa*mple.com", "a *"),
            ("https://a.*.com", "a *"),
            ("*://example.com", "port is missing"),
            ("gopher://example.com", "no usual port"),
            ("https://example.com:0", "expected a port"),
            ("https://example.com:99999", "expected a port"),
            ("https://example.com:9-8", "first port"),
            ("https://10.0.0.0/33", "so many bits"),
            ("https://[::g]", "IPv6"),
            ("https://a..b", "no name"),
            ("1://a", "no scheme"),
        ];
        for (text, says) in rows {
            let error = text.parse::<Grant>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_destination_is_written_as_it_is_granted() {
        for text in [
            "https://a.test:443",
            "http://a.test:8080",
            "-://a.test:5432",
            "http://[::1]:80",
            "-://10.0.0.1:1",
            "udp://10.0.0.1:1",
        ] {
            let destination = destination(text);
            let written = destination.to_string();
            assert!(grants(&[&written]).allow(&destination), "{text} is written as {written}");
        }
    }
}
