//! Calls in memory, shared between threads: those that add them, the timer, and who starts what is due.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::{self, Nanos};
use crate::queue::{Call, Limits, Queue, ScheduleError, Stored, TimerId};

/// The queue, shared between those who add calls, the timer that waits for the next due time,
/// and who starts what is due.
pub(crate) struct Ready {
    inner: Mutex<Inner>,
    /// What `Queue::first_due` gives, `u64::MAX` for none: written under the
    /// lock, and read without it on the way of every request.
    first_due: AtomicU64,
    /// Calls due later than this are not started any more.
    last_due: AtomicU64,
    /// Told when a call was scheduled that is due before `Inner::timer`.
    earlier: Condvar,
}

struct Inner {
    queue: Queue,
    /// What the timer sleeps for.
    timer: Nanos,
    /// A call was added that was due before.
    is_overdue: bool,
}

impl Ready {
    pub(crate) fn new(limits: Limits) -> Ready {
        Ready {
            inner: Mutex::new(Inner { queue: Queue::new(limits), timer: Nanos::MAX, is_overdue: false }),
            first_due: AtomicU64::new(Nanos::MAX),
            last_due: AtomicU64::new(Nanos::MAX),
            earlier: Condvar::new(),
        }
    }

    /// See `Queue::schedule`.
    pub(crate) fn schedule(&self, delay: Nanos, payload: Box<[u8]>) -> Result<TimerId, ScheduleError> {
        let mut inner = self.inner.lock();
        // Read under the lock, so that ids and times of scheduling agree.
        let (id, due) = inner.queue.schedule(clock::now(), delay, payload)?;
        self.note_due(inner, due);
        Ok(id)
    }

    /// See `Queue::schedule_at`.
    pub(crate) fn schedule_at(&self, due: Nanos, payload: Box<[u8]>) -> Result<TimerId, ScheduleError> {
        let mut inner = self.inner.lock();
        let now = clock::now();
        // One that is scheduled after the last time is not due before it.
        let is_late = now > self.last_due.load(Ordering::Relaxed);
        let due = if is_late { due.max(now) } else { due };
        let id = inner.queue.schedule_at(now, due, payload)?;
        inner.is_overdue |= due < now;
        self.note_due(inner, due);
        Ok(id)
    }

    /// Adds a call that a store has given, whatever the limits of memory are.
    pub(crate) fn add(&self, call: Stored) {
        let mut inner = self.inner.lock();
        let due = call.due;
        inner.is_overdue |= due < clock::now();
        inner.queue.add_stored(call);
        self.note_due(inner, due);
    }

    /// Lets go all that have not been started.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        let ids: Vec<TimerId> = inner.queue.ids().collect();
        ids.iter().for_each(|id| {
            inner.queue.cancel(*id);
        });
        self.note_first_due(&inner);
    }

    /// Tells those who wait for it of a call that was added.
    fn note_due(&self, inner: MutexGuard<'_, Inner>, due: Nanos) {
        self.note_first_due(&inner);
        let timer = inner.timer;
        drop(inner);
        if due < timer {
            self.earlier.notify_one();
        }
    }

    /// See `Queue::cancel`.
    pub(crate) fn cancel(&self, id: TimerId) -> bool {
        let mut inner = self.inner.lock();
        let cancelled = inner.queue.cancel(id);
        self.note_first_due(&inner);
        cancelled
    }

    /// Takes out the call to start next, if one is due.
    pub(crate) fn take_due(&self) -> Option<Call> {
        if !self.is_due() {
            return None;
        }
        let mut inner = self.inner.lock();
        let last_due = self.last_due.load(Ordering::Relaxed);
        if inner.queue.first_due().is_some_and(|due| due > last_due) {
            return None;
        }
        // Read under the lock, so that calls start in the order of their due times.
        let call = inner.queue.take_due(clock::now());
        self.note_first_due(&inner);
        call
    }

    /// A call is due, and waits for a core only.
    pub(crate) fn is_due(&self) -> bool {
        // Most servers have nothing pending at most times: then no clock is read.
        self.first_due().is_some_and(|due| due <= clock::now())
    }

    /// The time now, such that no call that is due before it is still on its way
    /// into the queue.
    pub(crate) fn now(&self) -> Nanos {
        let _no_one_schedules = self.inner.lock();
        clock::now()
    }

    /// Waits until a call comes due, of those that were not due before `from`, or one is added
    /// that was due already. Only the timer waits here, which is a thread: the timers of the
    /// runtime know nothing finer than milliseconds.
    pub(crate) fn wait_until_due(&self, from: Nanos) {
        let mut inner = self.inner.lock();
        loop {
            if std::mem::take(&mut inner.is_overdue) {
                return;
            }
            inner.timer = inner.queue.first_due_from(from).unwrap_or(Nanos::MAX);
            if inner.timer == Nanos::MAX {
                self.earlier.wait(&mut inner);
            } else if inner.timer > clock::now() {
                let due = clock::instant(inner.timer).into_std();
                self.earlier.wait_until(&mut inner, due);
            } else {
                return;
            }
        }
    }

    /// From now on, calls that are due after `last` are not started.
    pub(crate) fn close_after(&self, last: Nanos) {
        self.last_due.store(last, Ordering::Relaxed);
    }

    /// The time of `close_after`, if there was one.
    pub(crate) fn last_due(&self) -> Option<Nanos> {
        Some(self.last_due.load(Ordering::Relaxed)).filter(|last| *last != u64::MAX)
    }

    /// When the first call is due, if it may still start.
    pub(crate) fn first_due(&self) -> Option<Nanos> {
        let first_due = self.first_due.load(Ordering::Acquire);
        let open = first_due != Nanos::MAX && first_due <= self.last_due.load(Ordering::Relaxed);
        open.then_some(first_due)
    }

    /// Calls that have not been started or cancelled.
    pub(crate) fn pending(&self) -> u64 {
        self.inner.lock().queue.pending()
    }

    /// The ids of the first `max` pending calls.
    pub(crate) fn ids(&self, max: usize) -> Vec<TimerId> {
        self.inner.lock().queue.ids().take(max).collect()
    }

    fn note_first_due(&self, inner: &Inner) {
        self.first_due.store(inner.queue.first_due().unwrap_or(Nanos::MAX), Ordering::Release);
    }
}
