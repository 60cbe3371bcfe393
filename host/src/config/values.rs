//! The kinds of values that options have, and how they are written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

/// How many of something that cannot be none.
pub fn count(text: &str) -> Result<NonZeroU32> {
    text.parse().map_err(|_| anyhow::anyhow!("expected a whole number from 1 to {}", u32::MAX))
}

/// A variable of the environment: its name, and the value, or else the server's own.
pub fn variable(text: &str) -> Result<(String, String)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = std::env::var(text);
            (text, value.context("the server has no such variable; give a value with NAME=VALUE")?)
        }
    };
    ensure!(!name.is_empty(), "the name is missing");
    ensure!(!text.contains('\0'), "a variable has no zeros in it");
    Ok((name.to_owned(), value))
}

/// Of a variable that is given again, the last value counts, as with options.
pub fn variables(given: &[(String, String)]) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, value) in given {
        variables.retain(|(earlier, _)| earlier != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// One address and port.
    Tcp(SocketAddr),
    /// A port on every interface, IPv6 and IPv4.
    EveryInterface(u16),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl Address {
    /// The TCP port; 0 asks the system for one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Tcp(address) => Some(address.port()),
            Address::EveryInterface(port) => Some(*port),
            Address::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Address> {
        if let Some(path) = text.strip_prefix("unix:") {
            ensure!(!path.is_empty(), "a path must follow `unix:`");
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        if let Some(port) = text.strip_prefix(':') {
            let port = port.parse().context("a port from 0 to 65535 must follow `:`")?;
            return Ok(Address::EveryInterface(port));
        }
        let address = text.replacen("localhost:", "127.0.0.1:", 1);
        let address = address
            .parse()
            .map_err(|_| anyhow::anyhow!("expected 127.0.0.1:9090, [::1]:9090, :9090 or unix:PATH"))?;
        Ok(Address::Tcp(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::EveryInterface(port) => write!(f, ":{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A folder of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the guest finds it.
    pub guest: String,
    /// The guest may not change it.
    pub read_only: bool,
}

impl FromStr for Folder {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Folder> {
        let (text, read_only) = match text.strip_suffix("::ro") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (host, guest) = text.split_once("::").unwrap_or((text, "/"));
        ensure!(!host.is_empty(), "the host's folder is missing");
        ensure!(!guest.is_empty(), "the guest's path is missing");
        ensure!(!guest.contains("::"), "expected HOST, HOST::GUEST, HOST::ro or HOST::GUEST::ro");
        Ok(Folder { host: PathBuf::from(host), guest: guest.to_owned(), read_only })
    }
}

/// A number of bytes, written as `4096`, `64K`, `128M`, `1G` (also `KiB`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Bytes> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "B" => 1usize,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            _ => bail!("expected a number of bytes, such as 65536, 64K, 128M or 1G"),
        };
        let number: usize =
            digits.parse().context("expected a number of bytes, such as 65536, 64K, 128M or 1G")?;
        number.checked_mul(unit).map(Bytes).context("too many bytes")
    }
}

/// A duration, written in seconds with or without a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Seconds> {
        let seconds: f64 = text.parse().context("expected seconds, such as 30 or 0.5")?;
        // A hundred years: further sums of such durations cannot overflow.
        ensure!((0.0..=3.2e9).contains(&seconds), "expected seconds from 0 to 3200000000");
        Ok(Seconds(Duration::from_secs_f64(seconds)))
    }
}

/// Who may open a file: the permissions of its user, its group and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Mode> {
        let mode = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let mode = mode.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777);
        mode.map(Mode).context("expected three octal digits, such as 660")
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_uwsgi_reads_them() {
        let rows = [
            ("127.0.0.1:9090", Address::Tcp("127.0.0.1:9090".parse().unwrap())),
            ("[::1]:9090", Address::Tcp("[::1]:9090".parse().unwrap())),
            ("localhost:80", Address::Tcp("127.0.0.1:80".parse().unwrap())),
            (":9090", Address::EveryInterface(9090)),
            ("unix:/tmp/a.sock", Address::Unix(PathBuf::from("/tmp/a.sock"))),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Address>().unwrap(), expected, "{text}");
        }
        for text in ["", "9090", "host:1:2", ":", ":65536", "unix:", "1.2.3.4"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn folders_have_a_place_and_may_be_read_only() {
        let folder =
            |host: &str, guest: &str, read_only| Folder { host: host.into(), guest: guest.into(), read_only };
        let rows = [
            ("data", folder("data", "/", false)),
            ("data::ro", folder("data", "/", true)),
            ("data::/srv", folder("data", "/srv", false)),
            ("data::/srv::ro", folder("data", "/srv", true)),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Folder>().unwrap(), expected, "{text}");
        }
        for text in ["", "::/srv", "data::", "data::/srv::rw"] {
            assert!(text.parse::<Folder>().is_err(), "{text}");
        }
    }

    #[test]
    fn byte_counts_have_binary_units() {
        for (text, expected) in [("0", 0), ("64K", 65536), ("128MiB", 128 << 20), ("1G", 1 << 30)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(expected), "{text}");
        }
        for text in ["", "K", "-1", "1X", "99999999999999999999", "99999999999G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction_and_an_end() {
        assert_eq!("0.5".parse::<Seconds>().unwrap().0, Duration::from_millis(500));
        for text in ["-1", "NaN", "inf", "1e99", "x"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
