//! A core: the place for one guest call at a time, and for the instance that
//! may serve the next call too. What an instance is does not matter here.

use std::sync::Arc;

use super::Worker;
use super::clients::Claim;

/// One core while no call holds it.
#[derive(Debug)]
pub struct Core<I: Send + 'static> {
    /// Counts from 0; it names the core in the log.
    pub number: u32,
    /// Left here by the last call, to be used again.
    pub instance: Option<I>,
}

/// A core that is taken by a call. Dropping it gives the core back.
pub struct CoreGuard<I: Send + 'static> {
    core: Option<Core<I>>,
    /// Who gives it back.
    worker: Arc<Worker<I>>,
    /// The client that holds it, if that is counted.
    claim: Option<Arc<Claim>>,
}

impl<I: Send + 'static> CoreGuard<I> {
    pub(crate) fn new(core: Core<I>, worker: Arc<Worker<I>>, claim: Option<Arc<Claim>>) -> CoreGuard<I> {
        CoreGuard { core: Some(core), worker, claim }
    }

    /// The worker whose core this is for the time of the call.
    pub fn worker(&self) -> usize {
        self.worker.number()
    }

    /// The core, taken over from the worker that gave it.
    pub(crate) fn moved_to(mut self, worker: &Arc<Worker<I>>) -> CoreGuard<I> {
        if self.worker.number() != worker.number() {
            self.worker = worker.clone();
        }
        self
    }

    /// The core's number.
    pub fn number(&self) -> u32 {
        self.core.as_ref().map_or(0, |core| core.number)
    }

    /// Takes the instance that an earlier call left.
    pub fn take_instance(&mut self) -> Option<I> {
        self.core.as_mut().and_then(|core| core.instance.take())
    }

    /// Leaves an instance for the next call.
    pub fn leave_instance(&mut self, instance: I) {
        if let Some(core) = self.core.as_mut() {
            core.instance = Some(instance);
        }
    }

    pub(crate) fn into_parts(mut self) -> Option<(Core<I>, Option<Arc<Claim>>)> {
        Some((self.core.take()?, self.claim.take()))
    }
}

impl<I: Send + 'static> Drop for CoreGuard<I> {
    fn drop(&mut self) {
        if let Some(core) = self.core.take() {
            self.worker.give_back(core, self.claim.take());
        }
    }
}
