//! The service manager that has started the server, such as systemd: it is told when the
//! server serves, swaps its guest, and stops, by `sd_notify(3)`. Written here, since crates for
//! it read the environment, where only config looks.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::telemetry::log::Log;

/// A manager that reads nothing must not hold up a stop or a swap.
const TELLING_TIME_MAX: Duration = Duration::from_secs(1);

/// What the manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Requests are served, by the guest that its file has in it or, if that was refused, by
    /// the one before.
    Serves,
    /// Another guest is loaded. `Serves` follows.
    Swaps,
    /// Nothing follows.
    Stops,
}

/// Whoever is to be told, if anybody is.
pub(super) struct ServiceManager {
    /// None once the server stops: a swap that ends after that does not say that it serves.
    address: Mutex<Option<SocketAddr>>,
    log: Log,
}

impl ServiceManager {
    /// `address` is what the manager gave, if it did: a path, or `@` and an abstract name.
    pub(super) fn new(address: Option<&OsStr>, log: Log) -> ServiceManager {
        let address = address.and_then(|text| {
            let address = read(text);
            address
                .map_err(|error| log.server(format_args!("the service manager's NOTIFY_SOCKET: {error}")))
                .ok()
        });
        ServiceManager { address: Mutex::new(address), log }
    }

    /// A manager that cannot be told is no reason not to serve: the variable may have come from
    /// a terminal that a service has started.
    pub(super) fn tell(&self, state: State) {
        let mut address = self.address.lock();
        let Some(manager) = &*address else { return };
        if let Err(error) = send(manager, &message(state)) {
            self.log.server(format_args!("the service manager cannot be told that it {state:?}: {error}"));
        }
        if state == State::Stops {
            *address = None;
        }
    }
}

fn read(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    }
}

/// A socket each time: the manager may have made its own anew.
fn send(manager: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TELLING_TIME_MAX))?;
    socket.send_to_addr(message.as_bytes(), manager).map(|_| ())
}

fn message(state: State) -> String {
    match state {
        State::Serves => "READY=1\n".to_owned(),
        State::Swaps => {
            // With `Type=notify-reload` it tells this from what an earlier signal led to.
            let now = clock_gettime(ClockId::Monotonic);
            let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
            format!("RELOADING=1\nMONOTONIC_USEC={micros}\n")
        }
        State::Stops => "STOPPING=1\n".to_owned(),
    }
}
