//! A guest that can be called, and its instances.

pub(crate) mod cgi;
pub(crate) mod engine;
pub(crate) mod instance;
pub(crate) mod link;
pub(crate) mod load;
pub(crate) mod loader;
pub(crate) mod reuse;
pub(crate) mod stripped;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Engine;

use self::link::Entry;
use crate::clock::Nanos;
use crate::memory::memories::Memories;
use crate::sandbox::host::Host;

/// What one worker needs of the guest.
pub(crate) struct Program {
    pub(crate) engine: Engine,
    pub(crate) entry: Entry,
    pub(crate) host: Arc<Host>,
    /// See `Summary::runs_deferred_calls`.
    pub(crate) runs_deferred_calls: bool,
    /// See `Summary::closes`.
    pub(crate) closes: bool,
    /// Which guest it is made of: of 0 at the start, and one more after each swap.
    pub(crate) generation: u64,
    pub(super) reuse: Reuse,
    /// None if its instances take their memory from wasmtime's pool.
    memories: Option<Memories>,
    /// Addresses that a memory needs, where the system has none for an instance of each core.
    addresses_short: Option<u64>,
    size: Size,
}

/// What an instance of a guest takes of the memory of all.
struct Size {
    /// At its beginning.
    initial: u64,
    /// At the end of its calls: a moving average.
    recent: AtomicU64,
}

impl Program {
    /// What room there should be for an instance. One that takes more than a sixteenth of all
    /// gets that when it grows, or not.
    pub(crate) fn bytes_expected(&self) -> u64 {
        let most = self.size.initial.max(self.host.budget.bytes() / 16);
        self.size.recent.load(Ordering::Relaxed).min(most)
    }

    /// Notes what an instance took. Some notes may be lost between threads.
    pub(crate) fn note_bytes(&self, bytes: u64) {
        let recent = self.size.recent.load(Ordering::Relaxed);
        self.size.recent.store(recent - recent / 8 + bytes / 8, Ordering::Relaxed);
    }

    /// The system has no addresses for one more instance, and none are kept for later ones.
    pub(crate) fn has_no_addresses(&self) -> bool {
        match (self.addresses_short, &self.memories) {
            (Some(bytes), Some(memories)) => !memories.has_room(bytes),
            _ => false,
        }
    }

    /// Gives memory back to the system that no instance has had since `time`.
    pub(crate) fn trim(&self, time: Nanos) {
        if let Some(memories) = &self.memories {
            memories.trim(time);
        }
    }
}

/// Which instances serve one call after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reuse {
    /// Calls that an instance serves, 0 for no limit.
    pub calls_max: u32,
    /// One that takes more serves no further call.
    pub bytes_max: u64,
}
