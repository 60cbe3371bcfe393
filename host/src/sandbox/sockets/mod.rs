//! What an instance has of sockets: which it may connect, and how they do it. What guests call is
//! in `imports`, above this.

/// The bytes of one connection.
pub(crate) mod connection;
/// The addresses of a name, while they are looked for.
pub(crate) mod lookup;
/// By which names addresses were found.
mod name_of_address;
/// A socket of TCP until it is connected.
pub(crate) mod tcp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtx};

use self::name_of_address::Names;
use super::files::places::Place;
use crate::outbound::record::Record;
use crate::outbound::sockets::Protocol;
use crate::outbound::{Outbound, permits};

/// What the system may hold of what a socket sends, and of what it receives.
pub(crate) const BUFFER_BYTES_MAX: u64 = 1 << 20;

/// Names that an instance may look up at once: there are few such places for all.
const LOOKUPS_MAX: usize = 8;

/// Those of one instance.
pub(crate) struct Sockets {
    pub names: Arc<Names>,
    /// One for each further lookup.
    pub lookups: Arc<Semaphore>,
    /// What wasmtime needs for sockets of UDP; made for the first one.
    udp: Option<WasiSocketsCtx>,
    /// The places of those, by their numbers in the instance's table.
    udp_places: HashMap<u32, Place>,
}

impl Default for Sockets {
    fn default() -> Sockets {
        Sockets {
            names: Arc::default(),
            lookups: permits::semaphore(LOOKUPS_MAX),
            udp: None,
            udp_places: HashMap::new(),
        }
    }
}

impl Sockets {
    /// Refuses to connect to what is not granted.
    pub(crate) fn check_tcp(&self, outbound: &Outbound, address: SocketAddr) -> Result<Record, ErrorCode> {
        let checked = outbound.check_socket(Protocol::Tcp, address, &self.names.of(address.ip()));
        checked.and_then(|to| outbound.connection(&to)).map_err(|_| ErrorCode::AccessDenied)
    }

    /// What sockets of UDP are made of, which may exchange something with what is granted.
    pub(crate) fn udp(&mut self, outbound: &Arc<Outbound>) -> WasiSocketsCtx {
        let made = self.udp.get_or_insert_with(|| {
            let (outbound, names) = (outbound.clone(), self.names.clone());
            let mut builder = WasiCtx::builder();
            builder.allow_tcp(false).allow_udp(true).socket_addr_check(move |address, purpose| {
                let is_allowed = allows_udp(&outbound, &names, address, purpose);
                Box::pin(std::future::ready(is_allowed))
            });
            builder.build().sockets().clone()
        });
        made.clone()
    }

    /// The socket of UDP with this number holds the place.
    pub(crate) fn hold_udp(&mut self, number: u32, place: Place) {
        self.udp_places.insert(number, place);
    }

    /// The socket of UDP that had this number is gone.
    pub(crate) fn release_udp(&mut self, number: u32) {
        self.udp_places.remove(&number);
    }
}

fn allows_udp(outbound: &Outbound, names: &Names, address: SocketAddr, purpose: SocketAddrUse) -> bool {
    match purpose {
        SocketAddrUse::UdpBind if is_unbound(address) => true,
        SocketAddrUse::UdpBind => {
            outbound.refuse(TO_BIND);
            false
        }
        SocketAddrUse::UdpSend => {
            outbound.check_socket(Protocol::Udp, address, &names.of(address.ip())).is_ok()
        }
        // Nobody is told of what strangers send.
        SocketAddrUse::UdpReceive => {
            outbound.allowed(Protocol::Udp, address, &names.of(address.ip())).is_some()
        }
        _ => false,
    }
}

/// What no guest may.
pub(crate) const TO_BIND: &str = "bind a socket to an address or a port";

/// Whether to bind to it chooses nothing: the system does so for a socket that connects.
pub(crate) fn is_unbound(address: SocketAddr) -> bool {
    address.ip().is_unspecified() && address.port() == 0
}
