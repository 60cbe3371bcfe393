//! What sockets may connect to, and which names may be looked up to find it. What is spoken over
//! them is not the server's affair.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Outbound;
use super::destination::{Destination, Target, UDP};
use super::failure::Failure;
use super::record::Record;

/// More than any name of a host has in UTF-8 (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 1024;

/// What is spoken over a socket, as far as that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn to(self, host: Target, port: u16) -> Destination {
        let scheme = match self {
            Protocol::Tcp => None,
            Protocol::Udp => Some(UDP.to_owned()),
        };
        Destination { scheme, host, port }
    }
}

/// What a lookup has found.
#[derive(Debug)]
pub(crate) struct Found {
    /// As it is granted. None for an address, which needs no lookup and is granted by itself.
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
}

impl Outbound {
    /// Something is granted by UDP. It is told if not.
    pub(crate) fn grants_udp(&self) -> bool {
        let is_granted = self.grants.have_udp();
        if !is_granted {
            self.refusals.tell_udp();
        }
        is_granted
    }

    /// A guest wants to do with a socket what none may.
    pub(crate) fn refuse(&self, what: &'static str) {
        self.refusals.tell_never(what);
    }

    /// As what something may be exchanged with this address, which the guest found by these names.
    pub(crate) fn allowed(
        &self,
        protocol: Protocol,
        address: SocketAddr,
        names: &[String],
    ) -> Option<Destination> {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let by_name = names.iter().map(|name| Target::Name(name.clone()));
        let mut all = by_name.chain([Target::Address(ip)]).map(|target| protocol.to(target, port));
        all.find(|destination| self.grants.allow_address(destination, ip))
    }

    /// Refuses what is not granted, and tells of it.
    pub(crate) fn check_socket(
        &self,
        protocol: Protocol,
        address: SocketAddr,
        names: &[String],
    ) -> Result<Destination, Failure> {
        if let Some(destination) = self.allowed(protocol, address, names) {
            return Ok(destination);
        }
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let mut named = names.iter().map(|name| protocol.to(Target::Name(name.clone()), port));
        match (named.clone().find(|to| self.grants.allow(to)), named.next()) {
            (Some(granted), _) => self.refusals.tell(&granted, Some(ip)),
            (None, Some(named)) => self.refusals.tell(&named, None),
            (None, None) => self.refusals.tell(&protocol.to(Target::Address(ip), port), None),
        }
        Err(Failure::Denied)
    }

    /// A socket begins to connect to what was checked.
    pub(crate) fn connection(&self, to: &Destination) -> Result<Record, Failure> {
        Ok(self.book.connection(to, self.check(to)?))
    }

    /// The addresses of a name by which it may be connected to, at whatever port. It is one of
    /// those that an instance may look up at once, of which `of_one` has what is left.
    pub(crate) async fn find(&self, name: &str, of_one: Arc<Semaphore>) -> Result<Found, Failure> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Failure::Destination("no host has such a long name"));
        }
        let name = match Target::parse(name) {
            Ok(Target::Address(address)) => return Ok(Found { name: None, addresses: vec![address] }),
            Ok(Target::Name(name)) => name,
            Err(_) => return Err(Failure::Destination("no host has such a name")),
        };
        if !self.grants.allow_lookup(&name) {
            self.refusals.tell_lookup(&name, None);
            return Err(Failure::Denied);
        }
        let of_one = of_one.try_acquire_owned().map_err(|_| Failure::TooMany)?;
        let found = timeout(self.limits.times.connect, async {
            let of_all =
                self.left.lookups_of_sockets.clone().acquire_owned().await.map_err(io::Error::other)?;
            self.look_up(name.clone(), 0, (of_one, of_all)).await
        })
        .await;
        let found = found.map_err(|_| Failure::LookupTimeout)?;
        let found = found.map_err(|error| Failure::Lookup(error.into()))?;
        let mut addresses: Vec<IpAddr> = found.iter().map(|found| found.ip().to_canonical()).collect();
        let Some(first) = addresses.first().copied() else {
            return Err(Failure::Lookup(io::Error::other("the name has no address").into()));
        };
        addresses.retain(|address| self.grants.allow_found(&name, *address));
        if addresses.is_empty() {
            self.refusals.tell_lookup(&name, Some(first));
            return Err(Failure::AddressDenied);
        }
        Ok(Found { name: Some(name), addresses })
    }
}
