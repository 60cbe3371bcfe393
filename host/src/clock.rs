//! One monotonic clock for the whole server, in nanoseconds since it started.
//! Deadlines are kept as such numbers: they fit into an atomic, they compare
//! between instances, and tests can make them up.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds on the server's monotonic clock.
pub type Nanos = u64;

struct Start {
    instant: Instant,
    unix_nanos: u64,
}

fn start() -> &'static Start {
    static START: OnceLock<Start> = OnceLock::new();
    START.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Start { instant: Instant::now(), unix_nanos: since_epoch.as_nanos() as u64 }
    })
}

/// The time now. The first reading of a process starts the clock.
pub fn now() -> Nanos {
    start().instant.elapsed().as_nanos() as Nanos
}

/// `nanos` of the clock as nanoseconds since the Unix epoch, for information: it
/// does not follow later changes of the system's time.
pub fn unix_nanos(nanos: Nanos) -> u64 {
    start().unix_nanos.saturating_add(nanos)
}

/// The instant at which tokio's timers should fire for `nanos`.
pub fn instant(nanos: Nanos) -> tokio::time::Instant {
    tokio::time::Instant::from_std(start().instant + Duration::from_nanos(nanos))
}

/// The time `duration` after now.
pub fn after(duration: Duration) -> Nanos {
    now().saturating_add(duration.as_nanos() as Nanos)
}
