//! How much of the network guests may use at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;

/// Connections beside those of requests under way: kept for later ones.
const KEPT_MAX: usize = 256;
/// Lookups of names at once. Each takes a thread, of those that read files, too.
const LOOKUPS_MAX: usize = 32;

/// What is left for all guests.
pub(super) struct Left {
    requests: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    pub(super) lookups: Arc<Semaphore>,
    /// Of these, those for sockets: a guest that looks up much leaves some to requests.
    pub(super) lookups_of_sockets: Arc<Semaphore>,
}

/// What a request holds.
pub(super) struct Permits {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// How many connections there are at once, at most.
pub(super) fn connections_max(requests_max: usize) -> usize {
    requests_max.saturating_add(KEPT_MAX)
}

/// So many, as far as they can be counted.
pub(crate) fn semaphore(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

impl Left {
    pub(super) fn new(requests_max: usize) -> Left {
        Left {
            requests: semaphore(requests_max),
            connections: semaphore(connections_max(requests_max)),
            lookups: semaphore(LOOKUPS_MAX),
            lookups_of_sockets: semaphore(LOOKUPS_MAX / 2),
        }
    }

    /// For a request of an instance that may have `of_one` more.
    pub(super) fn request(&self, of_one: &Arc<Semaphore>) -> Result<Permits, Failure> {
        Ok(Permits { _of_one: take(of_one)?, _of_all: take(&self.requests)? })
    }

    pub(super) fn connection(&self) -> Result<OwnedSemaphorePermit, Failure> {
        take(&self.connections)
    }
}

fn take(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    of.clone().try_acquire_owned().map_err(|_| Failure::TooMany)
}
