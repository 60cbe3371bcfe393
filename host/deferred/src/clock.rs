//! One monotonic clock for the whole server, in nanoseconds. It begins at the system's time, as
//! nanoseconds since the Unix epoch, and does not follow later changes of that. So times of an earlier
//! process are on it, too. Deadlines are kept as such numbers: they fit into an atomic, they compare
//! between instances, and tests can make them up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds on the server's monotonic clock.
pub type Nanos = u64;

struct Start {
    instant: Instant,
    /// The same moment, as the system's clock has it.
    monotonic_nanos: u64,
    unix_nanos: u64,
}

fn start() -> &'static Start {
    static START: OnceLock<Start> = OnceLock::new();
    START.get_or_init(|| {
        let monotonic_nanos = nanos(clock_gettime(ClockId::Monotonic));
        Start { instant: Instant::now(), monotonic_nanos, unix_nanos: system() }
    })
}

/// The system's time.
fn system() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// The time now. The first reading of a process starts the clock.
pub fn now() -> Nanos {
    let start = start();
    start.unix_nanos + start.instant.elapsed().as_nanos() as Nanos
}

/// The time at the last tick of the system, which is some milliseconds ago: for
/// what is read often and counts in seconds. It is never 0.
pub fn coarse() -> Nanos {
    let start = start();
    let elapsed = nanos(clock_gettime(ClockId::MonotonicCoarse)).saturating_sub(start.monotonic_nanos);
    (start.unix_nanos + elapsed).max(1)
}

fn nanos(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The system's time less `now`: that changes only when somebody sets the system's time.
static OFFSET: AtomicI64 = AtomicI64::new(0);
/// Two readings of clocks, one right after the other, may be so far apart.
const READING_NANOS: i64 = 20_000;

/// What the clock says at a time of the system's, given in nanoseconds since the Unix epoch,
/// and 1 for those before it began: no call is due at 0. Of two times, the later one never
/// comes first.
pub fn at_unix(unix_nanos: u64) -> Nanos {
    let before = now();
    let system = system() as i64;
    let (least, most) = (system - now() as i64, system - before as i64);
    let bounds = least - READING_NANOS..=most + READING_NANOS;
    let mut offset = OFFSET.load(Ordering::Relaxed);
    if !bounds.contains(&offset) {
        // The system's time was set. Another thread may be as far: the first one counts.
        offset = match OFFSET.compare_exchange(offset, most, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => most,
            Err(others) => others,
        };
    }
    unix_nanos.saturating_add_signed(-offset).max(1)
}

/// The instant at which tokio's timers should fire for `nanos`.
pub fn instant(nanos: Nanos) -> tokio::time::Instant {
    let start = start();
    tokio::time::Instant::from_std(
        start.instant + Duration::from_nanos(nanos.saturating_sub(start.unix_nanos)),
    )
}

/// The time `duration` after now.
pub fn after(duration: Duration) -> Nanos {
    now().saturating_add(duration.as_nanos() as Nanos)
}
