//! What a store of deferred calls does. One thread uses it (`keeper`), in transactions: what was asked for
//! stands when `commit` has returned, and only then somebody is told.

use std::time::Duration;

use anyhow::Result;

use crate::queue::{Limits, ScheduleError, TimerId};

/// Nanoseconds since the Unix epoch, on the clock of the store.
pub type UnixNanos = u64;

/// A call to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    pub payload: Box<[u8]>,
    pub scheduled: UnixNanos,
    pub due: UnixNanos,
}

/// A call that this server is to run, until its lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub id: TimerId,
    pub payload: Box<[u8]>,
    pub scheduled: UnixNanos,
    pub due: UnixNanos,
    /// Which run it is, from 1 on. It was counted, and written, when the call was claimed.
    pub attempt: u32,
    pub run: Run,
}

/// One run of a call. Its number only grows: whoever comes late with an earlier one changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub id: TimerId,
    pub number: u64,
}

/// What becomes of a call after a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is done.
    Gone,
    /// It runs again.
    Again { due: UnixNanos, error: String },
    /// It never runs, unless somebody asks for it; it is kept with its error.
    SetAside { at: UnixNanos, error: String },
    /// It runs again at once, and this run does not count: the server stops.
    Released,
}

/// How many calls there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that run one day, or run now.
    pub pending: u64,
    pub payload_bytes: u64,
    pub set_aside: u64,
}

/// For how many calls a server asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub now: UnixNanos,
    /// Only calls that are due at this time or before.
    pub due_max: UnixNanos,
    pub calls_max: usize,
    pub lease: Duration,
    /// One that was claimed so often, the last time by a server that has ended, is set aside.
    pub attempts_max: u32,
}

/// A store. After an error it is opened anew before it is used again.
pub trait Store: Send {
    /// Begins a transaction, with a store that is usable.
    fn begin(&mut self) -> Result<()>;

    /// Ends it: all of it stands, whatever becomes of this server.
    fn commit(&mut self) -> Result<()>;

    /// The time on the clock by which calls are due.
    fn now(&mut self) -> Result<UnixNanos>;

    /// Keeps a call.
    fn schedule(&mut self, call: &New, limits: &Limits) -> Result<Result<TimerId, ScheduleError>>;

    /// True if and only if the call was there, no server has it, and now it never runs.
    fn cancel(&mut self, id: TimerId) -> Result<bool>;

    /// Takes the calls that are due, the first due first, for the time of the lease.
    fn claim(&mut self, claim: &Claim) -> Result<Vec<Claimed>>;

    /// The run goes on: its lease lasts until then. False if somebody else has the call now.
    fn extend(&mut self, run: Run, until: UnixNanos) -> Result<bool>;

    /// A run has ended. False if somebody else has the call now, so that nothing was changed.
    fn end(&mut self, run: Run, next: &Next) -> Result<bool>;

    /// When a call that no server has is due.
    fn first_due(&mut self) -> Result<Option<UnixNanos>>;

    fn counts(&mut self) -> Result<Counts>;

    /// Removes those that were set aside before this time.
    fn remove_set_aside(&mut self, before: UnixNanos) -> Result<u64>;

    /// Drops what is not sure any more, such as a connection after an error.
    fn close(&mut self);
}
