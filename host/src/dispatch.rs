//! Which core takes which call. Requests wait in queues with a bound, deferred
//! calls in theirs (`deferred`), and a core that becomes free goes to the one or
//! the other, so that neither starves.
//!
//! All of it stands under one lock that is held for a few dozen nanoseconds: so
//! `--cores` and `--queue` hold exactly over the whole server. What a worker can
//! keep to itself it keeps: its cores, whose instances are in its CPU's caches,
//! and its requests, whose tasks it need not wake from outside. The lock of
//! `deferred` may be taken inside this one, never the other way round.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::clock::{self, Nanos};
use crate::cores::{Core, CoreGuard};
use crate::deferred::{Call, Deferred};

/// A worker prefers its own requests over older ones of another for this long.
const OWN_FIRST: Duration = Duration::from_millis(5);

/// The cores of a server. `I` is what a core keeps between calls.
pub struct Dispatch<I: Send + 'static> {
    state: Mutex<State<I>>,
    deferred: Arc<Deferred>,
    limits: Limits,
    /// How each worker starts a deferred call on a core; it must not block.
    start: Vec<OnceLock<StartDeferred<I>>>,
    /// Told to each worker when calls may be due and cores idle.
    due: Vec<Notify>,
    /// Told whenever the last busy core became idle.
    all_idle: Notify,
}

type StartDeferred<I> = Box<dyn Fn(CoreGuard<I>, Call) + Send + Sync>;

/// What `Dispatch` may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub cores: u32,
    /// Threads that share the cores.
    pub workers: usize,
    /// Requests that wait for a core.
    pub queue_max: usize,
    /// How long one waits at most.
    pub queue_time_max: Duration,
    /// Percent of the turns that go to deferred calls while some are due.
    pub deferred_share: u32,
}

/// Why a request got no core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCore {
    /// As many requests wait as may.
    QueueFull,
    /// It waited as long as it may.
    WaitedTooLong,
}

struct State<I: Send + 'static> {
    workers: Vec<Mine<I>>,
    idle: u32,
    waiting: usize,
    last_ticket: u64,
    share: Share,
}

/// What one worker has to itself.
struct Mine<I: Send + 'static> {
    /// A stack: the core that was used last has the warmest instance and caches.
    idle: VecDeque<Core<I>>,
    /// Requests in order of arrival, which is also the order of their tickets.
    waiting: VecDeque<Waiting<I>>,
}

struct Waiting<I: Send + 'static> {
    ticket: u64,
    since: Nanos,
    core: oneshot::Sender<CoreGuard<I>>,
}

enum Next<I: Send + 'static> {
    Request(oneshot::Sender<CoreGuard<I>>),
    Deferred(Call),
}

impl<I: Send + 'static> State<I> {
    fn new(limits: &Limits) -> State<I> {
        let mut workers: Vec<Mine<I>> =
            (0..limits.workers).map(|_| Mine { idle: VecDeque::new(), waiting: VecDeque::new() }).collect();
        for number in (0..limits.cores).rev() {
            workers[number as usize % limits.workers].idle.push_back(Core { number, instance: None });
        }
        let share = Share { percent: limits.deferred_share, credit: 0 };
        State { workers, idle: limits.cores, waiting: 0, last_ticket: 0, share }
    }

    /// An idle core: the worker's own, or else one of another worker, its coldest.
    fn take_idle(&mut self, worker: usize) -> Option<Core<I>> {
        if self.idle == 0 {
            return None;
        }
        self.idle -= 1;
        if let Some(core) = self.workers[worker].idle.pop_back() {
            return Some(core);
        }
        let most = self.workers.iter_mut().max_by_key(|mine| mine.idle.len());
        most.expect("there is a worker").idle.pop_front()
    }

    fn put_idle(&mut self, worker: usize, core: Core<I>) {
        self.idle += 1;
        self.workers[worker].idle.push_back(core);
    }

    /// The request that a worker serves next: its own first, unless another
    /// worker's has waited for longer than is fair.
    fn pop_waiting(&mut self, worker: usize) -> Option<Waiting<I>> {
        if self.waiting == 0 {
            return None;
        }
        let front = |mine: &Mine<I>| mine.waiting.front().map(|waiting| (waiting.ticket, waiting.since));
        let fronts = self.workers.iter().enumerate();
        let (_, since, oldest) =
            fronts.filter_map(|(at, mine)| front(mine).map(|(ticket, since)| (ticket, since, at))).min()?;
        let is_fair = front(&self.workers[worker])
            .is_some_and(|(_, own)| own.saturating_sub(since) <= OWN_FIRST.as_nanos() as Nanos);
        self.waiting -= 1;
        self.workers[if is_fair { worker } else { oldest }].waiting.pop_front()
    }

    fn push_waiting(&mut self, worker: usize, core: oneshot::Sender<CoreGuard<I>>) -> u64 {
        self.last_ticket += 1;
        self.waiting += 1;
        let ticket = self.last_ticket;
        self.workers[worker].waiting.push_back(Waiting { ticket, since: clock::now(), core });
        ticket
    }

    fn remove_waiting(&mut self, worker: usize, ticket: u64) {
        let waiting = &mut self.workers[worker].waiting;
        if let Ok(index) = waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket) {
            waiting.remove(index);
            self.waiting -= 1;
        }
    }
}

impl<I: Send + 'static> Dispatch<I> {
    pub fn new(limits: Limits, deferred: Arc<Deferred>) -> Arc<Dispatch<I>> {
        Arc::new(Dispatch {
            state: Mutex::new(State::new(&limits)),
            deferred,
            limits,
            start: (0..limits.workers).map(|_| OnceLock::new()).collect(),
            due: (0..limits.workers).map(|_| Notify::new()).collect(),
            all_idle: Notify::new(),
        })
    }

    /// The part of a worker, which counts from 0.
    pub fn worker(self: &Arc<Self>, number: usize) -> Arc<Worker<I>> {
        Arc::new(Worker { number, dispatch: self.clone() })
    }

    /// Tells the workers that calls came due. A core that becomes free while none
    /// is idle takes a call by itself.
    pub fn calls_are_due(&self) {
        self.due.iter().for_each(Notify::notify_one);
    }

    fn next(&self, state: &mut State<I>, worker: usize) -> Option<Next<I>> {
        if self.deferred.is_due() {
            // Also while no request waits: one that needs no waiting has come and
            // gone before `start_due` has its turn.
            if state.share.is_turn_of_deferred() {
                // None if it was cancelled in this moment.
                if let Some(call) = self.deferred.take_due() {
                    return Some(Next::Deferred(call));
                }
            }
            if state.waiting == 0 {
                // The core becomes idle, and `start_due` may take it.
                self.due[worker].notify_one();
            }
        }
        state.pop_waiting(worker).map(|waiting| Next::Request(waiting.core))
    }

    fn start_deferred(&self, core: CoreGuard<I>, call: Call) {
        let start = self.start[core.worker()].get();
        start.expect("on_deferred is called before any call is due")(core, call);
    }

    /// Cores that a call holds.
    pub fn busy(&self) -> u32 {
        self.limits.cores - self.state.lock().idle
    }

    /// Requests that wait for a core.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting
    }

    /// Takes from the idle cores what `is_wanted` of what they keep between calls. The lock
    /// is held for some nanoseconds a core.
    pub fn take_kept(&self, is_wanted: impl Fn(&I) -> bool) -> Vec<I> {
        let mut state = self.state.lock();
        let cores = state.workers.iter_mut().flat_map(|worker| &mut worker.idle);
        cores.filter_map(|core| core.instance.take_if(|instance| is_wanted(instance))).collect()
    }

    /// Waits until no call holds a core.
    pub async fn idle(&self) {
        loop {
            let all_idle = self.all_idle.notified();
            if self.busy() == 0 {
                return;
            }
            all_idle.await;
        }
    }
}

/// A worker's part of the dispatch. What it hands out refers to this, not to the
/// `Dispatch`, so that workers do not count their references in the same place.
pub struct Worker<I: Send + 'static> {
    number: usize,
    dispatch: Arc<Dispatch<I>>,
}

impl<I: Send + 'static> Worker<I> {
    pub fn number(&self) -> usize {
        self.number
    }

    /// Says how this worker starts a deferred call. Called once, before any is due.
    pub fn on_deferred(&self, start: impl Fn(CoreGuard<I>, Call) + Send + Sync + 'static) {
        let first = self.dispatch.start[self.number].set(Box::new(start)).is_ok();
        assert!(first, "on_deferred is called once");
    }

    /// Starts the calls that are due, as long as there are idle cores, one by one:
    /// in between, whatever else the worker has to do is done. It never ends.
    pub async fn start_due(self: &Arc<Self>) {
        loop {
            match self.take_due() {
                Some((core, call)) => {
                    self.dispatch.start_deferred(core, call);
                    // tokio looks for requests before this task runs again.
                    tokio::task::yield_now().await;
                }
                None => self.dispatch.due[self.number].notified().await,
            }
        }
    }

    fn take_due(self: &Arc<Self>) -> Option<(CoreGuard<I>, Call)> {
        if !self.dispatch.deferred.is_due() {
            return None;
        }
        let mut state = self.dispatch.state.lock();
        let call = if state.idle > 0 { self.dispatch.deferred.take_due()? } else { return None };
        let core = state.take_idle(self.number).expect("an idle core was seen under this lock");
        Some((CoreGuard::new(core, self.clone()), call))
    }

    /// Takes a core for a request, at once or after those that wait already.
    pub async fn core_for_request(self: &Arc<Self>) -> Result<CoreGuard<I>, NoCore> {
        let (place, core) = {
            let mut state = self.dispatch.state.lock();
            if let Some(core) = state.take_idle(self.number) {
                return Ok(CoreGuard::new(core, self.clone()));
            }
            if state.waiting >= self.dispatch.limits.queue_max {
                return Err(NoCore::QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = state.push_waiting(self.number, sender);
            (Place { ticket, worker: self }, receiver)
        };
        let core = tokio::time::timeout(self.dispatch.limits.queue_time_max, core).await;
        drop(place);
        match core {
            Ok(Ok(core)) => Ok(core.moved_to(self)),
            Ok(Err(_)) | Err(_) => Err(NoCore::WaitedTooLong),
        }
    }

    /// Gives a core to whoever is next, or makes it idle.
    pub(crate) fn give_back(self: &Arc<Self>, mut core: Core<I>) {
        let dispatch = &self.dispatch;
        loop {
            let next = {
                let mut state = dispatch.state.lock();
                match dispatch.next(&mut state, self.number) {
                    Some(next) => next,
                    None => {
                        state.put_idle(self.number, core);
                        if state.idle == dispatch.limits.cores {
                            dispatch.all_idle.notify_waiters();
                        }
                        return;
                    }
                }
            };
            let guard = CoreGuard::new(core, self.clone());
            match next {
                Next::Deferred(call) => return dispatch.start_deferred(guard, call),
                Next::Request(request) => match request.send(guard) {
                    Ok(()) => return,
                    // It left in this moment: on to the one behind it.
                    Err(guard) => match guard.into_core() {
                        Some(returned) => core = returned,
                        None => return,
                    },
                },
            }
        }
    }
}

/// A request's place in the queue, left when the request gives up.
struct Place<'a, I: Send + 'static> {
    ticket: u64,
    worker: &'a Worker<I>,
}

impl<I: Send + 'static> Drop for Place<'_, I> {
    fn drop(&mut self) {
        self.worker.dispatch.state.lock().remove_waiting(self.worker.number, self.ticket);
    }
}

/// Whose turn it is when a core becomes free while deferred calls are due:
/// `percent` of the turns, evenly spread, belong to them.
struct Share {
    percent: u32,
    credit: u32,
}

impl Share {
    fn is_turn_of_deferred(&mut self) -> bool {
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
    use super::*;
    use crate::deferred;
    use proptest::prelude::*;

    type Guard = CoreGuard<&'static str>;

    const LIMITS: Limits = Limits {
        cores: 1,
        workers: 1,
        queue_max: 2,
        queue_time_max: Duration::from_secs(3600),
        deferred_share: 50,
    };

    struct Server {
        dispatch: Arc<Dispatch<&'static str>>,
        /// The first worker, and the last.
        worker: Arc<Worker<&'static str>>,
        other: Arc<Worker<&'static str>>,
        deferred: Arc<Deferred>,
        started: Arc<Mutex<Vec<(Guard, u64)>>>,
    }

    fn server(limits: Limits) -> Server {
        let deferred = Arc::new(Deferred::new(deferred::Limits {
            pending_max: 1000,
            payload_bytes_max: 10,
            payload_bytes_total_max: 1000,
            delay_max: u64::MAX,
        }));
        let dispatch = Dispatch::new(limits, deferred.clone());
        let started = Arc::new(Mutex::new(Vec::new()));
        for number in 0..limits.workers {
            let list = started.clone();
            dispatch.worker(number).on_deferred(move |core, call| list.lock().push((core, call.id)));
        }
        let (worker, other) = (dispatch.worker(0), dispatch.worker(limits.workers - 1));
        Server { dispatch, worker, other, deferred, started }
    }

    fn ready<F: Future>(future: F) -> Option<F::Output> {
        futures::FutureExt::now_or_never(future)
    }

    #[tokio::test]
    async fn the_core_used_last_is_taken_first_with_its_instance() {
        let server = server(Limits { cores: 3, ..LIMITS });
        let first = server.worker.core_for_request().await.ok().unwrap();
        let mut second = server.worker.core_for_request().await.ok().unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        second.leave_instance("warm");
        drop(first);
        drop(second);
        let mut again = server.worker.core_for_request().await.ok().unwrap();
        assert_eq!((again.number(), again.take_instance()), (1, Some("warm")));
    }

    #[tokio::test]
    async fn requests_wait_in_order_and_only_so_many() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request());
        let mut second = Box::pin(server.worker.core_for_request());
        assert!(ready(&mut first).is_none());
        assert!(ready(&mut second).is_none());
        assert_eq!(ready(server.worker.core_for_request()).unwrap().err(), Some(NoCore::QueueFull));
        drop(held);
        assert!(ready(&mut second).is_none());
        assert!(ready(&mut first).unwrap().is_ok());
        assert!(ready(&mut second).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_request_that_gives_up_leaves_its_place() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request());
        assert!(ready(&mut first).is_none());
        assert_eq!(server.dispatch.waiting(), 1);
        drop(first);
        assert_eq!(server.dispatch.waiting(), 0);
        drop(held);
        assert_eq!(server.dispatch.busy(), 0);
    }

    #[tokio::test]
    async fn a_core_sent_to_a_request_that_just_left_comes_back() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request());
        assert!(ready(&mut first).is_none());
        drop(held);
        assert_eq!(server.dispatch.busy(), 1);
        drop(first);
        assert_eq!(server.dispatch.busy(), 0);
    }

    #[tokio::test]
    async fn due_calls_start_on_idle_cores_and_then_as_cores_become_free() {
        let server = server(Limits { cores: 2, ..LIMITS });
        for _ in 0..3 {
            server.deferred.schedule(0, Box::new([])).unwrap();
        }
        let mut starter = Box::pin(server.worker.start_due());
        turns(&mut starter).await;
        let running = std::mem::take(&mut *server.started.lock());
        assert_eq!(running.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [1, 2]);
        drop(running);
        turns(&mut starter).await;
        assert_eq!(server.started.lock().pop().unwrap().1, 3);
    }

    #[tokio::test]
    async fn a_due_call_that_waits_for_a_core_can_be_cancelled() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request().await.ok().unwrap();
        let id = server.deferred.schedule(0, Box::new([])).unwrap();
        assert!(server.worker.take_due().is_none());
        assert!(server.deferred.cancel(id));
        drop(held);
        assert!(server.started.lock().is_empty());
        assert_eq!(server.dispatch.busy(), 0);
    }

    #[tokio::test]
    async fn a_worker_takes_its_own_cores_first_and_then_those_of_others() {
        let server = server(Limits { cores: 4, workers: 2, ..LIMITS });
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(server.other.core_for_request().await.ok().unwrap());
        }
        assert_eq!(taken.iter().map(CoreGuard::number).collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert!(ready(server.other.core_for_request()).is_none());
        drop(taken);
        assert_eq!(server.dispatch.busy(), 0);
    }

    #[tokio::test]
    async fn a_free_core_goes_to_the_own_request_but_none_waits_for_long() {
        let server = server(Limits { workers: 2, ..LIMITS });
        let held = server.worker.core_for_request().await.ok().unwrap();
        let mut of_other = Box::pin(server.other.core_for_request());
        assert!(ready(&mut of_other).is_none());
        let mut own = Box::pin(server.worker.core_for_request());
        assert!(ready(&mut own).is_none());
        let now = clock::now();
        for worker in &mut server.dispatch.state.lock().workers {
            worker.waiting[0].since = now;
        }
        drop(held);
        let held = ready(&mut own).expect("its own worker had the core").ok().unwrap();
        // One that comes later than is fair is not preferred.
        let mut own = Box::pin(server.worker.core_for_request());
        assert!(ready(&mut own).is_none());
        let late = now + 2 * OWN_FIRST.as_nanos() as Nanos;
        server.dispatch.state.lock().workers[0].waiting[0].since = late;
        drop(held);
        assert!(ready(&mut own).is_none());
        assert!(ready(&mut of_other).unwrap().is_ok());
        assert!(ready(&mut own).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_worker_without_idle_cores_starts_a_due_call_on_that_of_another() {
        let server = server(Limits { cores: 2, workers: 2, ..LIMITS });
        let _held = server.worker.core_for_request().await.ok().unwrap();
        server.deferred.schedule(0, Box::new([])).unwrap();
        turns(&mut Box::pin(server.worker.start_due())).await;
        let started = server.started.lock();
        let started: Vec<_> = started.iter().map(|(core, _)| (core.number(), core.worker())).collect();
        assert_eq!(started, [(1, 0)]);
    }

    #[tokio::test]
    async fn a_due_call_has_its_turn_while_requests_wait() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request());
        let mut second = Box::pin(server.worker.core_for_request());
        assert!(ready(&mut first).is_none());
        assert!(ready(&mut second).is_none());
        server.deferred.schedule(0, Box::new([])).unwrap();
        drop(held);
        let held = ready(&mut first).expect("of two turns one is a request's").ok().unwrap();
        assert!(server.started.lock().is_empty());
        drop(held);
        assert_eq!(server.started.lock().len(), 1);
        assert!(ready(&mut second).is_none());
        server.started.lock().clear();
        assert!(ready(&mut second).unwrap().is_ok());
    }

    /// Lets the starter of due calls run until it waits.
    async fn turns(starter: &mut std::pin::Pin<Box<impl Future<Output = ()>>>) {
        for _ in 0..10 {
            assert!(ready(&mut *starter).is_none());
            tokio::task::yield_now().await;
        }
    }

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
