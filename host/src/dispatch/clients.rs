//! How much of the server one client may have: connections, cores, and places in the
//! queue. A client is an address; of IPv6, where everyone has very many, it is a network
//! of 64 bits. Trusted proxies and Unix sockets, which stand for many clients, are not
//! counted.
//!
//! The map of clients is looked at when a connection begins and ends. A request finds
//! what its client holds through its connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

/// What one client may have at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub connections_max: u32,
    pub cores_max: u32,
    /// Requests that wait for a core.
    pub waiting_max: u32,
}

/// All clients that have connections.
pub(crate) struct Clients {
    bounds: Bounds,
    present: Mutex<HashMap<IpAddr, Present>>,
}

struct Present {
    connections: u32,
    held: Arc<Held>,
}

/// What the requests of a client hold. `dispatch` alone changes it, under its lock.
#[derive(Debug, Default)]
struct Held {
    cores: AtomicU32,
    waiting: AtomicU32,
}

/// One connection of a client. It counts until the last call of its requests has ended.
pub(crate) struct Claim {
    clients: Arc<Clients>,
    network: IpAddr,
    held: Arc<Held>,
}

impl Clients {
    pub(crate) fn new(bounds: Bounds) -> Arc<Clients> {
        Arc::new(Clients { bounds, present: Mutex::default() })
    }

    /// A further connection of a client, or None if it has as many as it may.
    pub(crate) fn claim(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Claim>> {
        let network = network(address);
        let mut present = self.present.lock();
        let client =
            present.entry(network).or_insert_with(|| Present { connections: 0, held: Arc::default() });
        // One that is not there yet may have at least one connection.
        if client.connections >= self.bounds.connections_max {
            return None;
        }
        client.connections += 1;
        Some(Arc::new(Claim { clients: self.clone(), network, held: client.held.clone() }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut present = self.clients.present.lock();
        let client = present.get_mut(&self.network).expect("a client is there as long as its connections");
        client.connections -= 1;
        if client.connections == 0 {
            present.remove(&self.network);
        }
    }
}

/// All of these are called under the lock of `dispatch`: so what is read is still so when
/// it is changed, without an operation that reads and writes at once.
impl Claim {
    /// The client holds fewer cores than it may.
    pub(crate) fn may_take_core(&self) -> bool {
        self.held.cores.load(Relaxed) < self.clients.bounds.cores_max
    }

    pub(crate) fn take_core(&self) {
        add(&self.held.cores, 1);
    }

    pub(crate) fn give_core_back(&self) {
        add(&self.held.cores, -1);
    }

    /// Fewer of its requests wait than may.
    pub(crate) fn may_wait(&self) -> bool {
        self.held.waiting.load(Relaxed) < self.clients.bounds.waiting_max
    }

    pub(crate) fn wait(&self) {
        add(&self.held.waiting, 1);
    }

    pub(crate) fn wait_no_more(&self) {
        add(&self.held.waiting, -1);
    }
}

fn add(count: &AtomicU32, more: i32) {
    count.store(count.load(Relaxed).wrapping_add_signed(more), Relaxed);
}

/// What stands for the client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(connections_max: u32) -> Arc<Clients> {
        Clients::new(Bounds { connections_max, cores_max: 1, waiting_max: 1 })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_so_many_connections_and_others_theirs() {
        let clients = clients(2);
        let first = clients.claim(ip("192.0.2.1"));
        let _second = clients.claim(ip("::ffff:192.0.2.1")).unwrap();
        assert!(clients.claim(ip("192.0.2.1")).is_none());
        assert!(clients.claim(ip("192.0.2.2")).is_some());
        drop(first);
        assert!(clients.claim(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let clients = clients(1);
        let _claim = clients.claim(ip("2001:db8::1")).unwrap();
        assert!(clients.claim(ip("2001:db8::ffff:0:0:2")).is_none());
        assert!(clients.claim(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn what_a_client_holds_is_one_count_and_is_forgotten_with_it() {
        let clients = clients(9);
        let (one, other) = (clients.claim(ip("192.0.2.1")).unwrap(), clients.claim(ip("192.0.2.1")).unwrap());
        one.take_core();
        assert!(!other.may_take_core());
        other.give_core_back();
        assert!(one.may_take_core());
        drop((one, other));
        assert!(clients.present.lock().is_empty());
    }
}
