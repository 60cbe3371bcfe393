//! How much guests may write to the log: so many bytes a second, all together, and more
//! for a short time. What is beyond that is dropped, not waited for: a guest that writes
//! without end would else hold its core until its deadline.
//!
//! One bound for all protects the disk; a bound for each call would not, as there can be
//! any number of calls. But one that writes without end must not silence the others: so a
//! call may write only as long as it has written no more, of late, than is left for all
//! others. One flood leaves half of what there is, three leave a quarter, and who writes
//! little always finds room.

use crate::clock::Nanos;

/// What all guests may write.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes_per_second: f64,
    bytes_max: f64,
    left: f64,
    at: Nanos,
}

/// What one call has written of late.
#[derive(Debug, Default)]
pub struct Share {
    written: f64,
    at: Nanos,
}

impl Allowance {
    /// `burst` bytes at once, and `rate` in each second after that.
    pub(crate) fn new(rate: u64, burst: u64, now: Nanos) -> Allowance {
        let bytes_max = burst as f64;
        Allowance { bytes_per_second: rate as f64, bytes_max, left: bytes_max, at: now }
    }

    /// True if a call may write so much now; then it counts as written.
    pub(crate) fn take(&mut self, share: &mut Share, bytes: usize, now: Nanos) -> bool {
        let seconds = |since: Nanos| now.saturating_sub(since) as f64 / 1e9;
        self.left = self.bytes_max.min(self.left + seconds(self.at) * self.bytes_per_second);
        // What is forgotten in the time in which all of it comes again leaves a sole call
        // the whole rate.
        let time = self.bytes_max / self.bytes_per_second;
        share.written *= (-seconds(share.at) / time).exp();
        (self.at, share.at) = (now, now);
        let bytes = bytes as f64;
        let fits = share.written + bytes <= self.left - bytes;
        if fits {
            self.left -= bytes;
            share.written += bytes;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const PIECE: usize = 10;

    /// Writes as much as it may, and gives how much that was.
    fn flood(allowance: &mut Allowance, share: &mut Share, now: Nanos) -> usize {
        let mut written = 0;
        while allowance.take(share, PIECE, now) {
            written += PIECE;
        }
        written
    }

    #[test]
    fn a_flood_leaves_half_and_three_leave_a_quarter() {
        let mut allowance = Allowance::new(1000, 10_000, 0);
        assert_eq!(flood(&mut allowance, &mut Share::default(), 0), 5000);
        assert_eq!(flood(&mut allowance, &mut Share::default(), 0), 2500);
        assert_eq!(flood(&mut allowance, &mut Share::default(), 0), 1250);
        assert!(allowance.take(&mut Share::default(), 100, 0));
    }

    #[test]
    fn a_sole_flood_gets_the_rate_and_another_guest_is_heard_all_the_time() {
        let mut allowance = Allowance::new(1000, 10_000, 0);
        let (mut loud, mut quiet) = (Share::default(), Share::default());
        let mut written = 0;
        for tick in 0..6000 {
            let now = tick * SECOND / 100;
            written += flood(&mut allowance, &mut loud, now);
            assert!(tick % 10 != 0 || allowance.take(&mut quiet, PIECE, now), "at {now}");
        }
        // Half of the burst, and a minute of 1000 bytes a second, of which the other
        // takes 100.
        assert!((55_000..=60_000).contains(&written), "{written}");
    }

    #[test]
    fn floods_together_get_no_more_than_the_rate_after_the_burst() {
        let mut allowance = Allowance::new(1000, 10_000, 0);
        let mut shares: Vec<Share> = (0..50).map(|_| Share::default()).collect();
        let mut written = 0;
        for tick in 0..1000 {
            for share in &mut shares {
                written += flood(&mut allowance, share, tick * SECOND / 100);
            }
        }
        assert!((15_000..=20_000).contains(&written), "{written}");
    }

    #[test]
    fn calls_that_begin_anew_silence_nobody() {
        // Ten calls a second, each of which has written nothing before.
        let mut allowance = Allowance::new(1000, 10_000, 0);
        let mut quiet = Share::default();
        for tick in 0..600 {
            let now = tick * SECOND / 10;
            flood(&mut allowance, &mut Share::default(), now);
            assert!(tick % 10 != 0 || allowance.take(&mut quiet, 5, now), "at {now}");
        }
    }
}
