//! What the dispatch has in mind: idle cores, requests that wait, and whose turn it is. It is
//! plain data: nobody is woken here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clients::Claim;
use crate::clock::{self, Nanos};

/// A worker prefers its own requests over older ones of another for this long.
pub(super) const OWN_FIRST: Duration = Duration::from_millis(5);

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

    /// The worker's own request first, unless another worker's has waited for longer than is
    /// fair, or that worker has fewer cores: of one that computes, a thread makes no more use
    /// of a second core, while the other thread may have nothing to do.
    fn next_waiting(&self, worker: usize) -> Option<(usize, usize)> {
        if self.waiting == 0 {
            return None;
        }
        // Nearly always the first one. How many of one client stand before it is bounded.
        let first = |(at, mine): (usize, &Mine<I, R>)| {
            let index = mine.waiting.iter().position(Waiting::may_start)?;
            Some(First { ticket: mine.waiting[index].ticket, worker: at, index })
        };
        let since = |first: &First| self.workers[first.worker].waiting[first.index].since;
        let busy = |first: &First| self.workers[first.worker].busy;
        let firsts = || self.workers.iter().enumerate().filter_map(first);
        let oldest = firsts().min()?;
        let own = first((worker, &self.workers[worker]));
        let own =
            own.filter(|own| since(own).saturating_sub(since(&oldest)) <= OWN_FIRST.as_nanos() as Nanos);
        let next = own.map_or(oldest, |own| {
            let poorest = firsts().min_by_key(|first| (busy(first), *first));
            poorest.filter(|poorest| busy(poorest) < busy(&own)).unwrap_or(own)
        });
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

/// The first request of a worker that may start. The one that came first is the least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct First {
    ticket: u64,
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
    /// The worker whose call holds it, or held it last.
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
