//! When a guest call must have ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::files::locks::Held;
use crate::clock::Nanos;

/// When a guest call must have ended. It is shared between the call, whose guest
/// may be computing, and whoever moves it.
#[derive(Debug)]
pub(crate) struct Deadline {
    nanos: AtomicU64,
    /// What others may wait for, if the guest has used files.
    held: OnceLock<Held>,
}

impl Deadline {
    pub(crate) fn at(nanos: Nanos) -> Arc<Deadline> {
        Arc::new(Deadline { nanos: AtomicU64::new(nanos), held: OnceLock::new() })
    }

    pub(crate) fn nanos(&self) -> Nanos {
        self.nanos.load(Ordering::Relaxed)
    }

    pub(crate) fn move_to(&self, nanos: Nanos) {
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// Who looks at the deadline can see whether the guest holds locks.
    pub(crate) fn show(&self, held: Held) {
        let _ = self.held.set(held);
    }

    pub(crate) fn are_locks_held(&self) -> bool {
        self.held.get().is_some_and(Held::is_any)
    }
}
