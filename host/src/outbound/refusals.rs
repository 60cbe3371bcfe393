//! What is told in the log of destinations that are not granted: each once in a while, since a
//! guest may ask for it in each request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::destination::{Destination, TCP, Target, UDP};
use crate::telemetry::log::Log;
use crate::terminal::escape;

/// How long nothing more is told of a destination.
const PAUSE: Duration = Duration::from_secs(60);
/// Destinations of which it is known when they were told. A guest may make up any number.
const KNOWN_MAX: usize = 256;

pub(super) struct Refusals {
    log: Log,
    told: Mutex<HashMap<String, Instant>>,
}

impl Refusals {
    pub(super) fn new(log: Log) -> Refusals {
        Refusals { log, told: Mutex::default() }
    }

    /// Says that it is not granted, or that it is, but not by the address that its name has.
    pub(super) fn tell(&self, destination: &Destination, address: Option<IpAddr>) {
        let text = destination.to_string();
        if !self.is_new(&text) {
            return;
        }
        let text = escape::text(&text);
        match address {
            None => self.log.server(format_args!(
                "{text} is not granted to the guest; to grant it, add --allow-outbound '{text}'"
            )),
            Some(address) => {
                let range = Destination { host: Target::Address(address), ..destination.clone() };
                self.log.server(format_args!(
                    "{text} is granted to the guest, but its address {address} is not public; to grant that, add --allow-outbound '{range}' or --allow-outbound-private"
                ));
            }
        }
    }

    /// Says that a name may not be looked up, or that it may, but has this address alone.
    pub(super) fn tell_lookup(&self, name: &str, address: Option<IpAddr>) {
        if !self.is_new(name) {
            return;
        }
        let name = escape::text(name);
        match address {
            None => self.log.server(format_args!(
                "the guest may not look up {name}; to let it connect, add --allow-outbound '{TCP}://{name}:PORT'"
            )),
            Some(address) => {
                let range = Target::Address(address);
                self.log.server(format_args!(
                    "{name} is granted to the guest, but its address {address} is not public; to grant that, add --allow-outbound '{TCP}://{range}:PORT' or --allow-outbound-private"
                ));
            }
        }
    }

    /// Says that nothing is granted by UDP.
    pub(super) fn tell_udp(&self) {
        if self.is_new(UDP) {
            self.log.server(format_args!(
                "the guest may have no UDP socket; to let it send, add --allow-outbound '{UDP}://HOST:PORT'"
            ));
        }
    }

    /// Says what no guest may do with a socket.
    pub(super) fn tell_never(&self, what: &str) {
        if self.is_new(what) {
            self.log.server(format_args!("the guest wants to {what}, which no guest may"));
        }
    }

    fn is_new(&self, text: &str) -> bool {
        let (now, mut told) = (Instant::now(), self.told.lock());
        if told.get(text).is_some_and(|then| now.duration_since(*then) < PAUSE) {
            return false;
        }
        if told.len() >= KNOWN_MAX {
            told.retain(|_, then| now.duration_since(*then) < PAUSE);
        }
        if told.len() >= KNOWN_MAX {
            return false;
        }
        told.insert(text.to_owned(), now);
        true
    }
}
