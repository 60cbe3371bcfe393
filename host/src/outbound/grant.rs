//! A destination that is granted, or many of them, as the command line names it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use super::destination::{Destination, Target, UDP, name, port_of};

/// What somebody who asks for no more than a destination may mean.
const FORM: &str =
    "expected SCHEME://HOST[:PORT], such as https://api.example.com, postgres://10.0.0.0/8 or *://*:443";

/// One destination, or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// As it was written.
    pub(super) text: Arc<str>,
    /// None for any.
    pub(super) scheme: Option<String>,
    pub(super) host: Host,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Any,
    Name(String),
    /// All names that end in this, which begins with a dot.
    Below(String),
    Addresses(IpNet),
}

impl Grant {
    /// Whether a socket, or a request by this scheme, is granted at this port.
    pub(super) fn is_for(&self, scheme: Option<&str>, port: u16) -> bool {
        let is_scheme = match (&self.scheme, scheme) {
            (Some(granted), Some(scheme)) => granted == scheme,
            (Some(granted), None) => granted != UDP,
            (None, _) => true,
        };
        is_scheme && self.ports.contains(&port)
    }

    /// Whether it is for requests by this scheme.
    pub(super) fn has_scheme(&self, scheme: &str) -> bool {
        self.scheme.as_deref().is_none_or(|granted| granted == scheme)
    }

    /// Whether the destination is one of it, as far as that is known without its addresses.
    pub(super) fn has(&self, destination: &Destination) -> bool {
        let is_host = match &destination.host {
            Target::Name(name) => self.has_name(name),
            Target::Address(address) => self.host == Host::Any || self.has_address(*address),
        };
        is_host && self.is_for(destination.scheme.as_deref(), destination.port)
    }

    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        matches!(&self.host, Host::Addresses(range) if range.contains(&address))
    }

    /// Whether both are for some connection.
    pub(super) fn meets(&self, other: &Grant) -> bool {
        let (one, two) = (self.scheme.as_deref(), other.scheme.as_deref());
        let have_one_scheme = one.is_none() || two.is_none() || (one == Some(UDP)) == (two == Some(UDP));
        have_one_scheme && self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end()
    }

    pub(super) fn has_name(&self, name: &str) -> bool {
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
        Ok(Grant { text: text.into(), scheme, host, ports })
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
}
