//! Where a server listens, and who may connect there.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

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
}
