//! What the dispatch has in mind: idle cores, requests that wait, and whose turn it is. It is
//! plain data: nobody is woken here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clients::Claim;
use crate::clock::{self, Nanos};

/// A worker prefers its own requests over older ones of another for this long.
pub(super) const OWN_FIRST: Duration = Duration::from_millis(5);
/// A request of a worker with fewer cores is preferred over older ones for this long.
pub(super) const POOREST_FIRST: Duration = Duration::from_millis(100);

/// The idle cores of all workers, and the requests that wait. `I` is what a core keeps between
/// calls, `R` what a request waits with.
pub(super) struct Queues<I, R> {
    pub(super) workers: Vec<Mine<I, R>>,
    idle: u32,
    waiting: usize,
    last_ticket: u64,
    pub share: Share,
}

/// What one worker has to itself.
pub(super) struct Mine<I, R> {
    /// A stack: the core that was used last has the warmest instance and caches.
    idle: VecDeque<Core<I>>,
    /// Requests in order of arrival, which is also the order of their tickets.
    pub(super) waiting: VecDeque<Waiting<R>>,
    /// Cores that its calls hold.
    busy: u32,
}

/// A request that waits.
pub(super) struct Waiting<R> {
    ticket: u64,
    pub(super) since: Nanos,
    /// Whose request it is, if that is counted.
    pub claim: Option<Arc<Claim>>,
    /// Where the core is sent that it gets.
    pub core: R,
}

impl<R> Waiting<R> {
    fn may_start(&self) -> bool {
        self.claim.as_ref().is_none_or(|claim| claim.may_take_core())
    }
}

impl<I, R> Queues<I, R> {
    /// All cores are idle. `deferred_share` is in percent.
    pub(super) fn new(cores: u32, workers: usize, deferred_share: u32) -> Queues<I, R> {
        let mine = |_| Mine { idle: VecDeque::new(), waiting: VecDeque::new(), busy: 0 };
        let mut mine: Vec<Mine<I, R>> = (0..workers).map(mine).collect();
        for number in (0..cores).rev() {
            mine[number as usize % workers].idle.push_back(Core { number, instance: None, holder: 0 });
        }
        let share = Share { percent: deferred_share, credit: 0 };
        Queues { workers: mine, idle: cores, waiting: 0, last_ticket: 0, share }
    }

    /// Idle cores.
    pub(super) fn idle(&self) -> u32 {
        self.idle
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The idle cores, of each worker the one first that has been idle for the longest.
    pub(super) fn idle_cores(&mut self) -> impl Iterator<Item = &mut Core<I>> {
        self.workers.iter_mut().flat_map(|worker| &mut worker.idle)
    }

    /// An idle core: the worker's own, or else one of another worker, its coldest.
    pub(super) fn take_idle(&mut self, worker: usize) -> Option<Core<I>> {
        if self.idle == 0 {
            return None;
        }
        self.idle -= 1;
        let own = self.workers[worker].idle.pop_back();
        let mut core = own.or_else(|| {
            let most = self.workers.iter_mut().max_by_key(|mine| mine.idle.len());
            most.expect("there is a worker").idle.pop_front()
        })?;
        self.hold(worker, &mut core);
        Some(core)
    }

    pub(super) fn put_idle(&mut self, worker: usize, core: Core<I>) {
        self.idle += 1;
        self.workers[worker].idle.push_back(core);
    }

    /// A call of this worker has the core.
    pub(super) fn hold(&mut self, worker: usize, core: &mut Core<I>) {
        core.holder = worker;
        self.workers[worker].busy += 1;
    }

    /// The call that had the core has ended.
    pub(super) fn release(&mut self, core: &Core<I>) {
        self.workers[core.holder].busy -= 1;
    }

    /// The request that a core goes to which a worker has released, and its worker. Its client
    /// holds a core from now on.
    pub(super) fn pop_waiting(&mut self, worker: usize) -> Option<(usize, Waiting<R>)> {
        let (worker, index) = self.next_waiting(worker)?;
        let waiting = self.take_waiting(worker, index)?;
        if let Some(claim) = &waiting.claim {
            claim.take_core();
        }
        Some((worker, waiting))
    }

    /// A request of the worker that has the fewest cores, and of two that have as many, of the
    /// one that asks: guests that compute make no use of a second core of their thread, while
    /// another thread may have nothing to do. But guests may also wait, and none is passed
    /// over for longer than is fair.
    fn next_waiting(&self, worker: usize) -> Option<(usize, usize)> {
        if self.waiting == 0 {
            return None;
        }
        let firsts = self.workers.iter().enumerate().filter_map(|(at, mine)| {
            // Nearly always the first one. How many of one client stand before it is bounded.
            let index = mine.waiting.iter().position(Waiting::may_start)?;
            let Waiting { ticket, since, .. } = mine.waiting[index];
            Some(First { busy: mine.busy, is_others: at != worker, ticket, since, worker: at, index })
        });
        let mut poorest_and_oldest: Option<(First, First)> = None;
        for first in firsts {
            let (poorest, oldest) = poorest_and_oldest.unwrap_or((first, first));
            let oldest = if first.ticket < oldest.ticket { first } else { oldest };
            poorest_and_oldest = Some((poorest.min(first), oldest));
        }
        let (poorest, oldest) = poorest_and_oldest?;
        let fair = if oldest.busy > poorest.busy { POOREST_FIRST } else { OWN_FIRST };
        let is_passed_over = poorest.since.saturating_sub(oldest.since) > fair.as_nanos() as Nanos;
        let next = if is_passed_over { oldest } else { poorest };
        Some((next.worker, next.index))
    }

    /// The ticket names its place.
    pub(super) fn push_waiting(&mut self, worker: usize, claim: Option<Arc<Claim>>, core: R) -> u64 {
        self.last_ticket += 1;
        self.waiting += 1;
        if let Some(claim) = &claim {
            claim.wait();
        }
        let ticket = self.last_ticket;
        self.workers[worker].waiting.push_back(Waiting { ticket, since: clock::now(), claim, core });
        ticket
    }

    /// Gives the request back, to be dropped without the lock.
    pub(super) fn remove_waiting(&mut self, worker: usize, ticket: u64) -> Option<Waiting<R>> {
        let waiting = &self.workers[worker].waiting;
        let index = waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        self.take_waiting(worker, index)
    }

    fn take_waiting(&mut self, worker: usize, index: usize) -> Option<Waiting<R>> {
        let waiting = self.workers[worker].waiting.remove(index)?;
        self.waiting -= 1;
        if let Some(claim) = &waiting.claim {
            claim.wait_no_more();
        }
        Some(waiting)
    }
}

/// The first request of a worker that may start. The least is of the poorest worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct First {
    /// Cores that calls of its worker hold.
    busy: u32,
    is_others: bool,
    ticket: u64,
    since: Nanos,
    worker: usize,
    index: usize,
}

/// One core.
#[derive(Debug)]
pub(super) struct Core<I> {
    /// Counts from 0; it names the core in the log.
    pub number: u32,
    /// Left here by the last call, to be used again.
    pub instance: Option<I>,
    /// The worker whose call holds it, unless it is idle.
    holder: usize,
}

/// Whose turn it is when a core becomes free while deferred calls are due:
/// `percent` of the turns, evenly spread, belong to them.
pub(super) struct Share {
    percent: u32,
    pub(super) credit: u32,
}

impl Share {
    pub(super) fn is_turn_of_deferred(&mut self) -> bool {
        self.credit += self.percent;
        let turn = self.credit >= 100;
        if turn {
            self.credit -= 100;
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Cores that are taken, handed from one worker's call to another's, and given back are
        /// each counted once, for the worker whose call has them; and none is idle that a
        /// request waits for.
        #[test]
        fn cores_are_counted_where_they_are(steps in prop::collection::vec((0..3usize, 0..3u8), 0..200)) {
            let mut queues: Queues<(), ()> = Queues::new(4, 3, 50);
            let mut held: Vec<Core<()>> = Vec::new();
            for (worker, step) in steps {
                match step {
                    0 => match queues.take_idle(worker) {
                        Some(core) => held.push(core),
                        None => drop(queues.push_waiting(worker, None, ())),
                    },
                    1 if !held.is_empty() => {
                        let mut core = held.remove(worker % held.len());
                        let giver = core.holder;
                        queues.release(&core);
                        match queues.pop_waiting(giver) {
                            Some((its_worker, _)) => {
                                queues.hold(its_worker, &mut core);
                                held.push(core);
                            }
                            None => queues.put_idle(giver, core),
                        }
                    }
                    _ => {
                        let first = queues.workers[worker].waiting.front().map(|waiting| waiting.ticket);
                        first.map(|ticket| queues.remove_waiting(worker, ticket));
                    }
                }
                for (number, mine) in queues.workers.iter().enumerate() {
                    let of_worker = held.iter().filter(|core| core.holder == number).count();
                    prop_assert_eq!(mine.busy as usize, of_worker);
                }
                prop_assert_eq!(queues.idle() as usize + held.len(), 4);
                prop_assert!(queues.idle() == 0 || queues.waiting() == 0);
            }
        }

        /// While both wait, neither is passed over for longer than its share
        /// says, and over a hundred turns the share is exact.
        #[test]
        fn turns_follow_the_share(percent in 1..=99u32) {
            let mut share = Share { percent, credit: 0 };
            let turns: Vec<bool> = (0..100).map(|_| share.is_turn_of_deferred()).collect();
            prop_assert_eq!(turns.iter().filter(|turn| **turn).count() as u32, percent);
            let gap_max = 100u32.div_ceil(percent) as usize;
            for window in turns.windows(gap_max) {
                prop_assert!(window.contains(&true));
            }
        }
    }
}
