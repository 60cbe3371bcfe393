//! What is told in the log of destinations that are not granted: each once in a while, since a
//! guest may ask for it in each request. All are counted.

use std::net::IpAddr;
use std::sync::Arc;

use super::destination::{Destination, TCP, Target, UDP};
use super::record::Book;
use crate::telemetry::told::Told;
use crate::terminal::escape;

pub(super) struct Refusals {
    book: Arc<Book>,
    told: Told,
}

impl Refusals {
    pub(super) fn new(book: Arc<Book>) -> Refusals {
        Refusals { book, told: Told::default() }
    }

    /// Says that it is not granted, or that it is, but not by the address that its name has.
    pub(super) fn tell(&self, destination: &Destination, address: Option<IpAddr>) {
        self.book.count_refused(match destination.scheme.as_deref() {
            None => TCP,
            Some(UDP) => UDP,
            Some(_) => "http",
        });
        let text = destination.to_string();
        if !self.told.is_new(&text) {
            return;
        }
        let text = escape::text(&text);
        match address {
            None => self.book.log().server(format_args!(
                "{text} is not granted to the guest; to grant it, add --allow-outbound '{text}'"
            )),
            Some(address) => {
                let range = Destination { host: Target::Address(address), ..destination.clone() };
                self.book.log().server(format_args!(
                    "{text} is granted to the guest, but its address {address} is not public; to grant that, add --allow-outbound '{range}' or --allow-outbound-private"
                ));
            }
        }
    }

    /// Says that a name may not be looked up, or that it may, but has this address alone.
    pub(super) fn tell_lookup(&self, name: &str, address: Option<IpAddr>) {
        self.book.count_refused("lookup");
        if !self.told.is_new(name) {
            return;
        }
        let name = escape::text(name);
        match address {
            None => self.book.log().server(format_args!(
                "the guest may not look up {name}; to let it connect, add --allow-outbound '{TCP}://{name}:PORT'"
            )),
            Some(address) => {
                let range = Target::Address(address);
                self.book.log().server(format_args!(
                    "{name} is granted to the guest, but its address {address} is not public; to grant that, add --allow-outbound '{TCP}://{range}:PORT' or --allow-outbound-private"
                ));
            }
        }
    }

    /// Says that nothing is granted by UDP.
    pub(super) fn tell_udp(&self) {
        self.book.count_refused(UDP);
        if self.told.is_new(UDP) {
            self.book.log().server(format_args!(
                "the guest may have no UDP socket; to let it send, add --allow-outbound '{UDP}://HOST:PORT'"
            ));
        }
    }

    /// Says what no guest may do with a socket.
    pub(super) fn tell_never(&self, what: &str) {
        self.book.count_refused("other");
        if self.told.is_new(what) {
            self.book.log().server(format_args!("the guest wants to {what}, which no guest may"));
        }
    }
}
