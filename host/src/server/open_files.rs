//! How many files and sockets the process may have open (`ulimit -n`), and how they are
//! shared between connections and guests.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;
use crate::terminal::say;

/// What the server itself has open, with its folders and the guest.
const OWN: u64 = 64;
/// With the memories that it keeps for later instances.
const OWN_OF_THREAD: u64 = 16;

/// Raises the limit as far as the system lets the process, and gives what all guests
/// together may have open. One line if not everything can be had that was asked for.
pub(super) fn share(settings: &Settings) -> usize {
    let wanted = settings.open_files_total() as u64;
    let Some(limit) = raise() else { return settings.open_files_total() };
    // The memory of an instance may be a file, and as many are kept.
    let own = OWN
        + OWN_OF_THREAD * u64::from(settings.threads().get())
        + 2 * u64::from(settings.cores())
        + settings.folders_named() as u64
        + settings.outbound_sockets() as u64;
    let needed = own + u64::from(settings.connections()) + wanted;
    if needed <= limit {
        return settings.open_files_total();
    }
    let guests = guests(limit, own, wanted);
    say(format_args!(
        "The system lets the server open {limit} files and sockets (ulimit -n), and {needed} may be needed: \
         guests get {guests}, and connections what is left, at most {}. Raise the limit, or lower --connections or \
         --open-files-total",
        settings.connections()
    ));
    guests as usize
}

/// At most half of what is left for them and connections.
fn guests(limit: u64, own: u64, wanted: u64) -> u64 {
    (limit.saturating_sub(own) / 2).min(wanted).max(1)
}

/// None if there is no limit.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_leave_half_to_connections() {
        assert_eq!(guests(1024, 80, 8192), 472);
        assert_eq!(guests(1024, 80, 100), 100);
        assert_eq!(guests(64, 80, 8192), 1);
    }
}
