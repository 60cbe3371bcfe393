//! Which program calls begin in.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::program::Program;
use crate::sandbox::host::Host;

/// The program in which a worker's calls begin. The lock is the worker's own: it
/// meets nobody there but a swap. The alignment keeps it from sharing a cache line
/// with that of another worker.
#[repr(align(128))]
pub(crate) struct Current(Mutex<Programs>);

struct Programs {
    requests: Arc<Program>,
    /// The newest that has a callback.
    deferred: Option<Arc<Program>>,
}

impl Current {
    pub(crate) fn new(program: Program) -> Current {
        let requests = Arc::new(program);
        let deferred = requests.runs_deferred_calls.then(|| requests.clone());
        Current(Mutex::new(Programs { requests, deferred }))
    }

    /// What the next request runs in.
    pub(crate) fn for_request(&self) -> Arc<Program> {
        self.0.lock().requests.clone()
    }

    /// What the next deferred call runs in.
    pub(crate) fn for_deferred(&self) -> Arc<Program> {
        let deferred = self.0.lock().deferred.clone();
        deferred.expect("a guest that schedules calls was checked to have a callback")
    }

    /// Of the guests that new calls run in.
    pub(crate) fn generations(&self) -> impl Iterator<Item = u64> + use<> {
        let programs = self.0.lock();
        let deferred = programs.deferred.as_ref().map(|program| program.generation);
        [Some(programs.requests.generation), deferred].into_iter().flatten()
    }

    pub(crate) fn host(&self) -> Arc<Host> {
        self.0.lock().requests.host.clone()
    }

    /// Gives the program in whose place it comes.
    pub(crate) fn take_for_requests(&self, program: Arc<Program>) -> Arc<Program> {
        std::mem::replace(&mut self.0.lock().requests, program)
    }

    /// The same, for one that has a callback.
    pub(crate) fn take_for_deferred(&self, program: Arc<Program>) -> Option<Arc<Program>> {
        self.0.lock().deferred.replace(program)
    }
}
