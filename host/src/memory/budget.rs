//! The memory that all instances together may take. An instance has a share of it, for its
//! own memory and for what the server holds for it. A fresh one waits until there is room; one
//! that grows is refused, and some room is kept from it, so that small ones can still begin.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Shares are counted in units of so many bytes.
const UNIT_BYTES: u64 = 256 << 10;
/// The part of the budget that is kept from instances that grow.
const KEPT_PART: usize = 8;

/// The memory that all instances may take. Clones are of the same budget.
#[derive(Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
}

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let units_max = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let units = units.min(units_max);
        Budget { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// A share, if there is room now.
    pub fn try_share(&self, bytes: u64) -> Option<Share> {
        let units = self.units_of(bytes);
        self.free.try_acquire_many(units).ok()?.forget();
        Some(Share { units, budget: self.clone() })
    }

    /// A share, when there is room. Who waits longest is first.
    pub async fn share(&self, bytes: u64) -> Share {
        let units = self.units_of(bytes);
        self.free.acquire_many(units).await.expect("the semaphore is never closed").forget();
        Share { units, budget: self.clone() }
    }

    /// All of it, in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// Bytes that shares have of it.
    pub fn bytes_shared(&self) -> u64 {
        self.bytes() - self.free.available_permits() as u64 * UNIT_BYTES
    }

    /// A share of more than there is would never come.
    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

/// What one instance may take. It goes back when this is dropped.
pub struct Share {
    units: u32,
    budget: Budget,
}

impl Share {
    /// Whether it is enough for so many bytes; it takes more if that is needed and can be had.
    pub fn covers(&mut self, bytes: u64) -> bool {
        let more = match bytes.div_ceil(UNIT_BYTES).checked_sub(self.units.into()) {
            None | Some(0) => return true,
            Some(more) => more,
        };
        let kept = self.budget.units as usize / KEPT_PART;
        let is_free = self.budget.free.available_permits() as u64 >= more.saturating_add(kept as u64);
        let Some(more) = u32::try_from(more).ok().filter(|_| is_free) else { return false };
        match self.budget.free.try_acquire_many(more) {
            Ok(taken) => {
                taken.forget();
                self.units += more;
                true
            }
            Err(_) => false,
        }
    }

    /// Gives back what is not needed for so many bytes.
    pub fn cut(&mut self, bytes: u64) {
        let needed = self.budget.units_of(bytes);
        if needed < self.units {
            self.budget.free.add_permits((self.units - needed) as usize);
            self.units = needed;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.free.add_permits(self.units as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn shares_end_where_the_budget_ends() {
        let budget = Budget::new(16 * MIB);
        let mut first = budget.try_share(10 * MIB).unwrap();
        assert!(budget.try_share(7 * MIB).is_none());
        let second = budget.try_share(2 * MIB).unwrap();
        assert!(first.covers(12 * MIB));
        // Two of sixteen are kept from those that grow.
        assert!(!first.covers(12 * MIB + 1));
        assert!(budget.try_share(2 * MIB).is_some());
        drop(second);
        assert!(first.covers(14 * MIB));
        first.cut(MIB + 1);
        assert_eq!(budget.bytes_shared(), MIB + UNIT_BYTES);
        assert!(!first.covers(u64::MAX));
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back() {
        let budget = Budget::new(4 * MIB);
        let mut all = budget.share(100 * MIB).await;
        let mut waiting = Box::pin(budget.share(MIB));
        assert!(futures::FutureExt::now_or_never(&mut waiting).is_none());
        all.cut(3 * MIB);
        waiting.await;
    }
}
