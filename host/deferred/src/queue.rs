//! What is pending, in which order it starts, and what may still be cancelled. The time is
//! told to it, so that its tests need no clock.

use std::collections::BTreeMap;
use std::fmt;

use crate::clock::Nanos;

/// Names one deferred call, for as long as the server runs; of a store, for as long as there is the store.
pub type TimerId = u64;

/// A call that has been taken out of the queue to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: TimerId,
    /// The bytes that its guest gave to `call-later`.
    pub payload: Box<[u8]>,
    /// When `call-later` was called.
    pub scheduled: Nanos,
    /// When it may start at the earliest.
    pub due: Nanos,
    /// When it was taken out of the queue, for a core that stands ready.
    pub started: Nanos,
    /// 1 at the first run.
    pub attempt: u32,
    /// Of a store: the number of this run, which says who has the call. Else 0.
    pub run: u64,
}

/// What the queue may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls that are pending at once.
    pub pending_max: u64,
    /// Bytes of one payload.
    pub payload_bytes_max: u64,
    /// Bytes of all payloads together.
    pub payload_bytes_total_max: u64,
    /// The longest delay.
    pub delay_max: Nanos,
}

impl Limits {
    /// What is wrong with the call itself.
    pub(crate) fn check(&self, delay: Nanos, payload_bytes: usize) -> Result<(), ScheduleError> {
        if payload_bytes as u64 > self.payload_bytes_max {
            return Err(ScheduleError::PayloadTooLarge(self.payload_bytes_max));
        }
        if delay > self.delay_max {
            return Err(ScheduleError::DelayTooLong(self.delay_max));
        }
        Ok(())
    }

    /// Whether there is room for it beside those that are pending.
    pub(crate) fn check_room(
        &self,
        pending: u64,
        pending_bytes: u64,
        payload_bytes: usize,
    ) -> Result<(), ScheduleError> {
        if pending >= self.pending_max {
            return Err(ScheduleError::TooManyPending(self.pending_max));
        }
        let max = self.payload_bytes_total_max;
        if pending_bytes + payload_bytes as u64 > max {
            return Err(ScheduleError::Unavailable(format!(
                "the payloads of all pending calls may take {max} bytes"
            )));
        }
        Ok(())
    }
}

/// Why a call was not scheduled. `wit/deferred.wit` gives the meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleError {
    PayloadTooLarge(u64),
    TooManyPending(u64),
    DelayTooLong(Nanos),
    Unavailable(String),
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScheduleError::PayloadTooLarge(bytes) => write!(f, "the payload is longer than {bytes} bytes"),
            ScheduleError::TooManyPending(calls) => write!(f, "{calls} calls are pending"),
            ScheduleError::DelayTooLong(nanos) => write!(f, "the delay is longer than {nanos} ns"),
            ScheduleError::Unavailable(reason) => f.write_str(reason),
        }
    }
}

/// The pending calls of one process.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    /// In the order in which they start: by due time, then as scheduled, which
    /// is what the ids count.
    calls: BTreeMap<(Nanos, TimerId), Pending>,
    /// Where `calls` has an id. Not a hash table: that would move all of its entries
    /// at once from time to time, with everyone who schedules waiting.
    due_of: BTreeMap<TimerId, Nanos>,
    /// Which attempt and run it is, of calls that a store has given. Those of memory have one, and are many.
    run_of: BTreeMap<TimerId, (u32, u64)>,
    payload_bytes: u64,
    last_id: TimerId,
}

#[derive(Debug)]
struct Pending {
    payload: Box<[u8]>,
    scheduled: Nanos,
}

/// A call that a store has given to this process, for one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: TimerId,
    pub(crate) payload: Box<[u8]>,
    pub(crate) scheduled: Nanos,
    pub(crate) due: Nanos,
    /// Which run it is, from 1 on.
    pub(crate) attempt: u32,
    pub(crate) run: u64,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Queue {
        Queue {
            limits,
            calls: BTreeMap::new(),
            due_of: BTreeMap::new(),
            run_of: BTreeMap::new(),
            payload_bytes: 0,
            last_id: 0,
        }
    }

    /// Adds a call that starts `delay` after `now` at the earliest.
    pub(crate) fn schedule(
        &mut self,
        now: Nanos,
        delay: Nanos,
        payload: Box<[u8]>,
    ) -> Result<(TimerId, Nanos), ScheduleError> {
        let due = now.saturating_add(delay);
        let id = self.add(now, delay, due, payload)?;
        Ok((id, due))
    }

    /// Adds a call that is due at a given time, which may be before `now`: then it starts before
    /// those that are due later.
    pub(crate) fn schedule_at(
        &mut self,
        now: Nanos,
        due: Nanos,
        payload: Box<[u8]>,
    ) -> Result<TimerId, ScheduleError> {
        self.add(now, due.saturating_sub(now), due, payload)
    }

    fn add(
        &mut self,
        now: Nanos,
        delay: Nanos,
        due: Nanos,
        payload: Box<[u8]>,
    ) -> Result<TimerId, ScheduleError> {
        let bytes = payload.len() as u64;
        self.limits.check(delay, payload.len())?;
        self.limits.check_room(self.pending(), self.payload_bytes, payload.len())?;
        self.last_id += 1;
        self.payload_bytes += bytes;
        let id = self.last_id;
        self.calls.insert((due, id), Pending { payload, scheduled: now });
        self.due_of.insert(id, due);
        Ok(id)
    }

    /// Adds a call that a store has given. Who does this bounds how many there are.
    pub(crate) fn add_stored(&mut self, call: Stored) {
        let Stored { id, payload, scheduled, due, attempt, run } = call;
        self.payload_bytes += payload.len() as u64;
        self.calls.insert((due, id), Pending { payload, scheduled });
        self.due_of.insert(id, due);
        self.run_of.insert(id, (attempt, run));
    }

    /// True if and only if the call was pending and now never starts.
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let Some(due) = self.due_of.remove(&id) else { return false };
        let pending = self.calls.remove(&(due, id)).expect("every id in due_of is in calls");
        self.payload_bytes -= pending.payload.len() as u64;
        self.run_of.remove(&id);
        true
    }

    /// Takes out the call to start next, if one is due at `now`.
    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<Call> {
        let first = self.calls.first_entry()?;
        let (due, id) = *first.key();
        if due > now {
            return None;
        }
        let Pending { payload, scheduled } = first.remove();
        self.due_of.remove(&id);
        self.payload_bytes -= payload.len() as u64;
        let (attempt, run) = self.run_of.remove(&id).unwrap_or((1, 0));
        Some(Call { id, payload, scheduled, due, started: now, attempt, run })
    }

    /// When the first call is due.
    pub(crate) fn first_due(&self) -> Option<Nanos> {
        self.calls.first_key_value().map(|((due, _), _)| *due)
    }

    /// When the first call is due of those that are due at `from` or later.
    pub(crate) fn first_due_from(&self, from: Nanos) -> Option<Nanos> {
        self.calls.range((from, 0)..).next().map(|((due, _), _)| *due)
    }

    /// Calls that have not been taken or cancelled.
    pub(crate) fn pending(&self) -> u64 {
        self.calls.len() as u64
    }

    /// The ids of pending calls, the first due first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TimerId> + '_ {
        self.calls.keys().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { pending_max: 8, payload_bytes_max: 4, payload_bytes_total_max: 20, delay_max: 100 };

    fn queue() -> Queue {
        Queue::new(LIMITS)
    }

    fn payload(bytes: usize) -> Box<[u8]> {
        vec![7; bytes].into()
    }

    #[test]
    fn calls_start_by_due_time_then_as_scheduled() {
        let mut queue = queue();
        for delay in [20, 10, 20, 10] {
            queue.schedule(0, delay, payload(1)).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take_due(20)).map(|call| call.id).collect();
        assert_eq!(order, [2, 4, 1, 3]);
    }

    #[test]
    fn calls_at_times_start_by_them_whenever_they_were_scheduled() {
        let mut queue = queue();
        for (now, due) in [(30, 20), (31, 10), (32, 40), (33, 20), (34, 35)] {
            queue.schedule_at(now, due, payload(0)).unwrap();
        }
        queue.schedule(35, 0, payload(0)).unwrap();
        assert_eq!(queue.schedule_at(36, 137, payload(0)), Err(ScheduleError::DelayTooLong(100)));
        let order: Vec<_> = std::iter::from_fn(|| queue.take_due(40)).map(|call| call.id).collect();
        assert_eq!(order, [2, 1, 4, 5, 6, 3]);
    }

    #[test]
    fn nothing_starts_before_its_due_time() {
        let mut queue = queue();
        queue.schedule(5, 10, payload(0)).unwrap();
        assert_eq!(queue.take_due(14), None);
        assert_eq!(queue.take_due(15).unwrap().scheduled, 5);
    }

    #[test]
    fn every_limit_is_an_error_that_changes_nothing() {
        let mut queue = queue();
        assert_eq!(queue.schedule(0, 0, payload(5)), Err(ScheduleError::PayloadTooLarge(4)));
        assert_eq!(queue.schedule(0, 101, payload(0)), Err(ScheduleError::DelayTooLong(100)));
        for _ in 0..5 {
            queue.schedule(0, 0, payload(4)).unwrap();
        }
        assert!(matches!(queue.schedule(0, 0, payload(1)), Err(ScheduleError::Unavailable(_))));
        for _ in 5..8 {
            queue.schedule(0, 0, payload(0)).unwrap();
        }
        assert_eq!(queue.schedule(0, 0, payload(0)), Err(ScheduleError::TooManyPending(8)));
        assert_eq!(queue.pending(), 8);
    }

    #[test]
    fn the_largest_delay_does_not_overflow() {
        let mut queue = Queue::new(Limits { delay_max: Nanos::MAX, ..LIMITS });
        let (_, due) = queue.schedule(7, Nanos::MAX, payload(0)).unwrap();
        assert_eq!(due, Nanos::MAX);
        assert_eq!(queue.first_due_from(Nanos::MAX), Some(Nanos::MAX));
    }

    #[test]
    fn cancelled_and_started_calls_cannot_be_cancelled() {
        let mut queue = queue();
        let (first, _) = queue.schedule(0, 0, payload(1)).unwrap();
        let (second, _) = queue.schedule(0, 0, payload(1)).unwrap();
        assert!(queue.cancel(first));
        assert!(!queue.cancel(first));
        assert_eq!(queue.take_due(0).unwrap().id, second);
        assert!(!queue.cancel(second));
        assert!(!queue.cancel(99));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule { delay: Nanos, bytes: usize },
        Cancel { id: TimerId },
        Advance { by: Nanos },
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..120u64, 0..6usize).prop_map(|(delay, bytes)| Step::Schedule { delay, bytes }),
            2 => (0..40u64).prop_map(|id| Step::Cancel { id }),
            3 => (0..30u64).prop_map(|by| Step::Advance { by }),
            4 => Just(Step::Take),
        ]
    }

    /// The queue as one would first write it: a list that is searched.
    #[derive(Default)]
    struct Model {
        pending: Vec<Call>,
        scheduled: u64,
    }

    impl Model {
        fn schedule(&mut self, now: Nanos, delay: Nanos, bytes: usize) -> Option<TimerId> {
            let total: usize = self.pending.iter().map(|call| call.payload.len()).sum();
            if bytes > 4 || delay > 100 || self.pending.len() >= 8 || total + bytes > 20 {
                return None;
            }
            self.scheduled += 1;
            let id = self.scheduled;
            self.pending.push(Call {
                id,
                payload: payload(bytes),
                scheduled: now,
                due: now + delay,
                started: 0,
                attempt: 1,
                run: 0,
            });
            Some(id)
        }

        fn cancel(&mut self, id: TimerId) -> bool {
            let before = self.pending.len();
            self.pending.retain(|call| call.id != id);
            self.pending.len() < before
        }

        fn take_due(&mut self, now: Nanos) -> Option<Call> {
            let due = self.pending.iter().filter(|call| call.due <= now);
            let first = due.min_by_key(|call| (call.due, call.id))?.clone();
            self.cancel(first.id);
            Some(Call { started: now, ..first })
        }
    }

    proptest! {
        /// Order, exactly once, never early, and cancel's promise, against a
        /// model that has them by construction.
        #[test]
        fn the_queue_does_what_a_searched_list_does(steps in prop::collection::vec(step(), 0..200)) {
            let (mut queue, mut model, mut now) = (queue(), Model::default(), 0);
            for step in steps {
                match step {
                    Step::Schedule { delay, bytes } => {
                        let id = queue.schedule(now, delay, payload(bytes)).ok().map(|(id, _)| id);
                        prop_assert_eq!(id, model.schedule(now, delay, bytes));
                    }
                    Step::Cancel { id } => prop_assert_eq!(queue.cancel(id), model.cancel(id)),
                    Step::Advance { by } => now += by,
                    Step::Take => prop_assert_eq!(queue.take_due(now), model.take_due(now)),
                }
                let first = model.pending.iter().map(|call| call.due).min();
                let later = model.pending.iter().map(|call| call.due).filter(|due| *due >= now).min();
                prop_assert_eq!(queue.first_due(), first);
                prop_assert_eq!(queue.first_due_from(now), later);
                prop_assert_eq!(queue.pending(), model.pending.len() as u64);
            }
        }
    }
}
