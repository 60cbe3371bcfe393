//! When a call runs again that has failed.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How often a call runs, and how long it waits between two runs.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Runs, with the first one.
    pub attempts_max: u32,
    /// After the first run; it doubles with each one, and some chance is added.
    pub delay_min: Duration,
    pub delay_max: Duration,
}

impl Retry {
    /// How long to wait after this run, unless it was the last one.
    pub(crate) fn delay(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts_max {
            return None;
        }
        let delays = ExponentialBuilder::default()
            .with_factor(2.0)
            .with_min_delay(self.delay_min)
            .with_max_delay(self.delay_max)
            .with_jitter()
            .without_max_times();
        // Later ones are as long as the longest.
        delays.build().nth(attempt.clamp(1, 64) as usize - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_end_with_the_last_run() {
        let second = Duration::from_secs(1);
        let retry = Retry { attempts_max: 100, delay_min: second, delay_max: 60 * second };
        for attempt in 1..100 {
            let least = second * 2u32.saturating_pow(attempt - 1).min(60);
            let delay = retry.delay(attempt).unwrap();
            // Chance at most doubles one.
            assert!((least..=2 * least).contains(&delay), "{attempt}: {delay:?}");
        }
        assert_eq!(retry.delay(100), None);
    }
}
