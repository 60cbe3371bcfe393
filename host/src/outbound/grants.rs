//! Whether a destination is granted.

use std::net::IpAddr;

use super::addresses;
use super::destination::{Destination, Target, UDP};
use super::grant::{Grant, Host};

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

    /// The first that grants it, as far as that is known without its addresses: by it, what becomes
    /// of the destination is counted.
    pub(super) fn of(&self, destination: &Destination) -> Option<&Grant> {
        self.named(destination).find(|grant| match &destination.host {
            Target::Name(name) => grant.has_name(name),
            Target::Address(address) => {
                let address = addresses::canonical(*address);
                let is_anywhere = self.private || addresses::is_public(address);
                grant.has_address(address) || (is_anywhere && grant.host == Host::Any)
            }
        })
    }

    fn named(&self, destination: &Destination) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.is_for(destination.scheme.as_deref(), destination.port))
    }
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

    #[test]
    fn a_destination_is_counted_by_the_first_grant_that_it_has() {
        let grants = grants(&[
            "udp://*:*",
            "https://a.test",
            "*://*.test:443",
            "tcp://10.0.0.0/8:1",
            "*://*:1",
            "tcp://*:2",
            "tcp://10.0.0.0/8:2",
        ]);
        let rows = [
            ("https://a.test:443", Some("https://a.test")),
            ("https://b.test:443", Some("*://*.test:443")),
            ("-://10.0.0.1:1", Some("tcp://10.0.0.0/8:1")),
            ("-://8.8.8.8:1", Some("*://*:1")),
            ("-://11.0.0.1:3", None),
            // Its address is private.
            ("-://127.0.0.1:1", None),
            // What is granted anywhere does not grant such an address.
            ("-://10.0.0.1:2", Some("tcp://10.0.0.0/8:2")),
            ("-://[::ffff:10.0.0.1]:2", Some("tcp://10.0.0.0/8:2")),
            ("-://8.8.8.8:2", Some("tcp://*:2")),
        ];
        for (text, expected) in rows {
            let granted = grants.of(&destination(text));
            assert_eq!(granted.map(|grant| &*grant.text), expected, "{text}");
        }
        let private = Grants { private: true, ..grants };
        let granted = private.of(&destination("-://10.0.0.1:2"));
        assert_eq!(granted.map(|grant| &*grant.text), Some("tcp://*:2"));
    }
}
