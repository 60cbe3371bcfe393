//! Where somebody wants to connect to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use super::addresses;

/// What a socket of UDP has as its scheme: no other one is for it.
pub(super) const UDP: &str = "udp";

/// What a socket of TCP is granted by, and nothing else is.
pub(super) const TCP: &str = "tcp";

/// Ports of schemes that are commonly written without one.
const PORTS: [(&str, u16); 14] = [
    ("http", 80),
    ("https", 443),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("mariadb", 3306),
    ("redis", 6379),
    ("rediss", 6379),
    ("smtp", 25),
    ("smtps", 465),
    ("mongodb", 27017),
    ("amqp", 5672),
    ("amqps", 5671),
    ("nats", 4222),
];

/// Where a guest wants to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// None for a socket of TCP: what is spoken over it is not the server's affair.
    pub scheme: Option<String>,
    pub host: Target,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// In lower case, of ASCII, without a dot at its end.
    Name(String),
    Address(IpAddr),
}

impl Target {
    /// As it stands in a URL or is given to a lookup. An error if no host has such a name.
    pub(crate) fn parse(text: &str) -> Result<Target> {
        if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().context("it is no address of IPv6")?;
            return Ok(Target::Address(addresses::canonical(address.into())));
        }
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Target::Address(addresses::canonical(address))),
            Err(_) => Ok(Target::Name(name(text)?)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Name(name) => f.write_str(name),
            Target::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Target::Address(address) => write!(f, "{address}"),
        }
    }
}

/// As it is to be granted.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.as_deref().unwrap_or(TCP);
        write!(f, "{scheme}://{}", self.host)?;
        match port_of(scheme) {
            Some(port) if port == self.port => Ok(()),
            _ => write!(f, ":{}", self.port),
        }
    }
}

/// A host's name as it is compared: IDNs are written in ASCII (RFC 5891).
pub(super) fn name(text: &str) -> Result<String> {
    let name = idna::domain_to_ascii(text.strip_suffix('.').unwrap_or(text));
    let name = name.map_err(|_| anyhow::anyhow!("{text:?} is no name of a host"))?;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let has_labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
    ensure!(name.len() <= 253 && has_labels && name.bytes().all(is_good), "{text:?} is no name of a host");
    Ok(name)
}

/// The port that is usual for a scheme.
pub(super) fn port_of(scheme: &str) -> Option<u16> {
    PORTS.iter().find(|(name, _)| *name == scheme).map(|(_, port)| *port)
}
