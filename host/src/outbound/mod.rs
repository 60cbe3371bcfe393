//! What guests may reach of the network: granted destinations, and how they are connected to.
//! It knows nothing of WebAssembly.

/// Which addresses anybody may reach.
mod addresses;
/// From a destination to a connection.
pub(crate) mod connect;
/// Where somebody wants to connect to.
mod destination;
/// What can go wrong on the way.
pub(crate) mod failure;
/// A destination that is granted, or many.
pub(crate) mod grant;
/// What guests may connect to.
pub(crate) mod grants;
/// Requests over HTTP.
pub(crate) mod http;
/// Certificates that are shown for guests.
pub(crate) mod identity;
/// How much of it may be used at once.
pub(crate) mod permits;
/// How far a request is.
mod progress;
/// What is known of a request or a connection once it is over.
pub(crate) mod record;
/// What is told of refusals.
mod refusals;
/// The bodies of requests.
pub(crate) mod sent;
/// What sockets may connect to, and the names that lead there.
pub(crate) mod sockets;
#[cfg(test)]
mod tests;
/// Who is believed to be whom.
pub(crate) mod tls;
/// What is checked of certificates where guests speak TLS themselves.
mod verifier;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use self::destination::{Destination, Target};
use self::failure::Failure;
use self::grants::Grants;
use self::permits::Left;
use self::record::Book;
use self::refusals::Refusals;
use self::tls::Trust;
pub(crate) use self::verifier::Checks;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What guests may take of it, whatever they ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests of all guests that are under way.
    pub requests_max: usize,
    /// Those of one instance.
    pub requests_of_one_max: usize,
    pub times: Times,
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For a connection, with the lookup of its name.
    pub connect: Duration,
    /// From then on, for the head of the response.
    pub first_byte: Duration,
    /// For each further piece of it.
    pub between_bytes: Duration,
}

/// From a host's name to its addresses, with the port. It may block.
type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// What is granted to the guests of a server.
pub(crate) struct Outbound {
    grants: Grants,
    /// The system's, but for tests.
    resolve: Resolve,
    limits: Limits,
    /// None if nothing is granted.
    trust: Option<Trust>,
    left: Left,
    refusals: Refusals,
    book: Arc<Book>,
}

impl Outbound {
    pub(crate) fn new(grants: Grants, limits: Limits, trust: Option<Trust>, book: Arc<Book>) -> Outbound {
        let (left, refusals) = (Left::new(limits.requests_max), Refusals::new(book.clone()));
        Outbound { grants, resolve: ask_system, limits, trust, left, refusals, book }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Something is granted.
    pub(crate) fn grants_anything(&self) -> bool {
        !self.grants.is_empty()
    }

    /// How many sockets the process may have for it.
    pub(crate) fn sockets_max(limits: Limits) -> usize {
        permits::connections_max(limits.requests_max)
    }

    /// Asks the system, which has no end of it that one could wait for: whoever waits for one may
    /// give up, but others begin only when it has one. What is `held` for it is held until then.
    async fn look_up(
        &self,
        name: String,
        port: u16,
        held: impl Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let permit = self.left.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
        let resolve = self.resolve;
        let found = tokio::task::spawn_blocking(move || {
            let found = resolve(&name, port);
            drop((permit, held));
            found
        });
        found.await.map_err(io::Error::other)?
    }

    /// What TLS of the guest's own believes in; None if nothing is granted.
    pub(crate) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// Refuses what is not granted, as far as that is known without the destination's addresses.
    /// Gives what grants it, as the operator wrote that.
    pub(crate) fn check(&self, destination: &Destination) -> Result<Arc<str>, Failure> {
        if let Some(grant) = self.grants.of(destination) {
            return Ok(grant.text.clone());
        }
        self.refusals.tell(destination, None);
        Err(Failure::Denied)
    }

    /// The addresses that it may be connected to by.
    async fn addresses(&self, destination: &Destination) -> Result<Vec<SocketAddr>, Failure> {
        self.check(destination)?;
        let found: Vec<SocketAddr> = match &destination.host {
            Target::Address(address) => vec![SocketAddr::new(*address, destination.port)],
            Target::Name(name) => {
                let found = self.look_up(name.clone(), destination.port, ()).await;
                found.map_err(|error| Failure::Lookup(error.into()))?
            }
        };
        let is_allowed = |address: &SocketAddr| self.grants.allow_address(destination, address.ip());
        let allowed: Vec<SocketAddr> = found.iter().copied().filter(is_allowed).collect();
        match (allowed.is_empty(), found.first()) {
            (false, _) => Ok(allowed),
            (true, Some(refused)) => {
                self.refusals.tell(destination, Some(refused.ip()));
                Err(Failure::AddressDenied)
            }
            (true, None) => Err(Failure::Lookup(io::Error::other("the name has no address").into())),
        }
    }
}

fn ask_system(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.collect())
}
