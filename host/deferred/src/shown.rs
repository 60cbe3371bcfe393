//! What a store's thread shows of it to others, who never wait for that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::Nanos;
use crate::store::Counts;

/// Figures of a store, as they were after the last transaction.
#[derive(Default)]
pub struct Shown {
    pending: AtomicU64,
    set_aside: AtomicU64,
    retried: AtomicU64,
    /// When the first call is due that is not in memory; 0 for none.
    first_due: AtomicU64,
    /// The thread waits until calls have started.
    wants_room: AtomicBool,
}

impl Shown {
    /// Calls that run one day, or run now.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Calls that are kept with their errors.
    pub fn set_aside(&self) -> u64 {
        self.set_aside.load(Ordering::Relaxed)
    }

    /// Runs after which this server has let a call run again.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, counts: &Counts) {
        self.pending.store(counts.pending, Ordering::Relaxed);
        self.set_aside.store(counts.set_aside, Ordering::Relaxed);
    }

    pub(crate) fn note_retried(&self, runs: u64) {
        self.retried.fetch_add(runs, Ordering::Relaxed);
    }

    pub(crate) fn note_first_due(&self, first: Option<Nanos>) {
        self.first_due.store(first.unwrap_or_default(), Ordering::Release);
    }

    pub(crate) fn first_due(&self) -> Option<Nanos> {
        Some(self.first_due.load(Ordering::Acquire)).filter(|first| *first != 0)
    }

    pub(crate) fn want_room(&self) {
        self.wants_room.store(true, Ordering::Release);
    }

    /// Whether the thread is to be told that calls have started.
    pub(crate) fn takes_room(&self) -> bool {
        self.wants_room.load(Ordering::Acquire) && self.wants_room.swap(false, Ordering::AcqRel)
    }
}
