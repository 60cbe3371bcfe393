//! What a worker has to answer requests and to run deferred calls with.

use std::sync::Arc;
use std::time::Duration;

use super::access_log::Book;
use super::body;
use super::current::Current;
use super::unsent::Room;
use crate::deferred::Deferred;
use crate::dispatch::Worker;
use crate::program::instance::Instance;

/// Everything that a worker needs to answer requests.
pub(crate) struct Service {
    pub(super) current: Arc<Current>,
    pub(super) dispatch: Arc<Worker<Instance>>,
    pub(super) book: Arc<Book>,
    pub(super) limits: Limits,
    /// For what slow clients have not taken yet.
    pub(super) unsent_room: Arc<Room>,
    /// Told what became of deferred calls.
    pub(super) deferred: Arc<Deferred>,
}

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Fields of a head, as far as the HTTP library does not count them.
    pub head_fields_max: usize,
    pub body: body::Limits,
    /// From taking a core until the response is complete.
    pub time_max: Duration,
    /// For guest work after that.
    pub tail_time_max: Duration,
    /// For a gateway's guest to close what it has opened, when its client has left.
    pub close_time_max: Duration,
    /// How long a call waits for room in the memory of all instances.
    pub room_time_max: Duration,
}

impl Service {
    pub(crate) fn new(
        current: Arc<Current>,
        dispatch: Arc<Worker<Instance>>,
        book: Book,
        limits: Limits,
        unsent_room: Arc<Room>,
        deferred: Arc<Deferred>,
    ) -> Service {
        Service { current, dispatch, book: Arc::new(book), limits, unsent_room, deferred }
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }
}
