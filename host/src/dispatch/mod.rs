//! Which core takes which call. Requests wait in queues with a bound, deferred
//! calls in theirs (`deferred`), and a core that becomes free goes to the one or
//! the other, so that neither starves.
//!
//! All of it stands under one lock that is held for a few dozen nanoseconds: so
//! `--cores` and `--queue` hold exactly over the whole server. What a worker can
//! keep to itself it keeps: its cores, whose instances are in its CPU's caches,
//! and its requests, whose tasks it need not wake from outside. The lock of
//! `deferred` may be taken inside this one, never the other way round.
//!
//! A request whose client holds as many cores as it may waits, too, though cores are
//! idle; those behind it pass by.

pub mod clients;
pub mod cores;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use self::clients::Claim;
use self::cores::{Core, CoreGuard};
use crate::clock::{self, Nanos};
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
    /// Whose request it is, if that is counted.
    claim: Option<Arc<Claim>>,
    core: oneshot::Sender<CoreGuard<I>>,
}

impl<I: Send + 'static> Waiting<I> {
    fn may_start(&self) -> bool {
        self.claim.as_ref().is_none_or(|claim| claim.may_take_core())
    }
}

enum Next<I: Send + 'static> {
    Request(Waiting<I>),
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
    /// worker's has waited for longer than is fair. Its client holds a core from now on.
    fn pop_waiting(&mut self, worker: usize) -> Option<Waiting<I>> {
        if self.waiting == 0 {
            return None;
        }
        // Nearly always the first one. How many of one client stand before it is bounded.
        let first = |mine: &Mine<I>| {
            let index = mine.waiting.iter().position(Waiting::may_start)?;
            Some((mine.waiting[index].ticket, mine.waiting[index].since, index))
        };
        let firsts = self.workers.iter().enumerate().filter_map(|(at, mine)| Some((first(mine)?, at)));
        let ((_, since, index), oldest) = firsts.min()?;
        let own = first(&self.workers[worker])
            .filter(|(_, own, _)| own.saturating_sub(since) <= OWN_FIRST.as_nanos() as Nanos);
        let (worker, index) = own.map_or((oldest, index), |(_, _, index)| (worker, index));
        let waiting = self.take_waiting(worker, index)?;
        if let Some(claim) = &waiting.claim {
            claim.take_core();
        }
        Some(waiting)
    }

    fn push_waiting(
        &mut self,
        worker: usize,
        claim: Option<Arc<Claim>>,
        core: oneshot::Sender<CoreGuard<I>>,
    ) -> u64 {
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
    fn remove_waiting(&mut self, worker: usize, ticket: u64) -> Option<Waiting<I>> {
        let waiting = &self.workers[worker].waiting;
        let index = waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        self.take_waiting(worker, index)
    }

    fn take_waiting(&mut self, worker: usize, index: usize) -> Option<Waiting<I>> {
        let waiting = self.workers[worker].waiting.remove(index)?;
        self.waiting -= 1;
        if let Some(claim) = &waiting.claim {
            claim.wait_no_more();
        }
        Some(waiting)
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
        let is_due = self.deferred.is_due();
        // Also while no request waits: one that needs no waiting has come and gone
        // before `start_due` has its turn.
        if is_due && state.share.is_turn_of_deferred() {
            // None if it was cancelled in this moment.
            if let Some(call) = self.deferred.take_due() {
                return Some(Next::Deferred(call));
            }
        }
        let waiting = state.pop_waiting(worker);
        if is_due && waiting.is_none() {
            // The core becomes idle, and `start_due` may take it.
            self.due[worker].notify_one();
        }
        waiting.map(Next::Request)
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

    /// Takes what one idle core has kept, the one that has been idle for the longest of its
    /// worker's.
    fn take_coldest_kept(&self) -> Option<I> {
        let mut state = self.state.lock();
        let mut cores = state.workers.iter_mut().flat_map(|worker| &mut worker.idle);
        cores.find_map(|core| core.instance.take())
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
        Some((CoreGuard::new(core, self.clone(), None), call))
    }

    /// Takes a core for a request, at once or after those that wait already. `claim` is
    /// its client's, if that is counted.
    pub async fn core_for_request(
        self: &Arc<Self>,
        claim: Option<Arc<Claim>>,
    ) -> Result<CoreGuard<I>, NoCore> {
        let (place, core) = {
            let mut state = self.dispatch.state.lock();
            if claim.as_ref().is_none_or(|claim| claim.may_take_core())
                && let Some(core) = state.take_idle(self.number)
            {
                if let Some(claim) = &claim {
                    claim.take_core();
                }
                return Ok(CoreGuard::new(core, self.clone(), claim));
            }
            let may_wait = claim.as_ref().is_none_or(|claim| claim.may_wait());
            if state.waiting >= self.dispatch.limits.queue_max || !may_wait {
                return Err(NoCore::QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = state.push_waiting(self.number, claim, sender);
            (Place { ticket, worker: self }, receiver)
        };
        let core = Box::pin(tokio::time::timeout(self.dispatch.limits.queue_time_max, core)).await;
        drop(place);
        match core {
            Ok(Ok(core)) => Ok(core.moved_to(self)),
            Ok(Err(_)) | Err(_) => Err(NoCore::WaitedTooLong),
        }
    }

    /// What an idle core has kept, whichever worker's it is: none of them are used soon.
    pub fn take_coldest_kept(&self) -> Option<I> {
        self.dispatch.take_coldest_kept()
    }

    /// Gives a core to whoever is next, or makes it idle. `claim` is of the client that
    /// held it.
    pub(crate) fn give_back(self: &Arc<Self>, mut core: Core<I>, mut claim: Option<Arc<Claim>>) {
        let dispatch = &self.dispatch;
        loop {
            let (next, is_one_waiting) = {
                let mut state = dispatch.state.lock();
                if let Some(claim) = &claim {
                    claim.give_core_back();
                }
                match dispatch.next(&mut state, self.number) {
                    Some(next) => (next, state.waiting > 0),
                    None => {
                        state.put_idle(self.number, core);
                        if state.idle == dispatch.limits.cores {
                            dispatch.all_idle.notify_waiters();
                        }
                        return;
                    }
                }
            };
            match next {
                Next::Deferred(call) => {
                    dispatch.start_deferred(CoreGuard::new(core, self.clone(), None), call);
                    if is_one_waiting {
                        self.start_waiting();
                    }
                    return;
                }
                Next::Request(Waiting { core: request, claim: its, .. }) => {
                    match request.send(CoreGuard::new(core, self.clone(), its)) {
                        Ok(()) => return,
                        // It left in this moment: on to the one behind it.
                        Err(guard) => match guard.into_parts() {
                            Some(returned) => (core, claim) = returned,
                            None => return,
                        },
                    }
                }
            }
        }
    }

    /// The client of a call that ended may have another one now, though its core went to a
    /// deferred call: that one takes an idle core, if there is one.
    fn start_waiting(self: &Arc<Self>) {
        let (core, Waiting { core: request, claim, .. }) = {
            let mut state = self.dispatch.state.lock();
            if state.idle == 0 {
                return;
            }
            let Some(waiting) = state.pop_waiting(self.number) else { return };
            let core = state.take_idle(self.number).expect("an idle core was seen under this lock");
            (core, waiting)
        };
        // If it left in this moment, its core is given back as it is dropped.
        let _ = request.send(CoreGuard::new(core, self.clone(), claim));
    }
}

/// A request's place in the queue, left when the request gives up.
struct Place<'a, I: Send + 'static> {
    ticket: u64,
    worker: &'a Worker<I>,
}

impl<I: Send + 'static> Drop for Place<'_, I> {
    fn drop(&mut self) {
        let left = self.worker.dispatch.state.lock().remove_waiting(self.worker.number, self.ticket);
        drop(left);
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
    use crate::dispatch::clients::{Bounds, Clients};
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
        let first = server.worker.core_for_request(None).await.ok().unwrap();
        let mut second = server.worker.core_for_request(None).await.ok().unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        second.leave_instance("warm");
        drop(first);
        drop(second);
        let mut again = server.worker.core_for_request(None).await.ok().unwrap();
        assert_eq!((again.number(), again.take_instance()), (1, Some("warm")));
    }

    #[tokio::test]
    async fn requests_wait_in_order_and_only_so_many() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request(None).await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request(None));
        let mut second = Box::pin(server.worker.core_for_request(None));
        assert!(ready(&mut first).is_none());
        assert!(ready(&mut second).is_none());
        assert_eq!(ready(server.worker.core_for_request(None)).unwrap().err(), Some(NoCore::QueueFull));
        drop(held);
        assert!(ready(&mut second).is_none());
        assert!(ready(&mut first).unwrap().is_ok());
        assert!(ready(&mut second).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_request_that_gives_up_leaves_its_place() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request(None).await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request(None));
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
        let held = server.worker.core_for_request(None).await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request(None));
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
        let held = server.worker.core_for_request(None).await.ok().unwrap();
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
            taken.push(server.other.core_for_request(None).await.ok().unwrap());
        }
        assert_eq!(taken.iter().map(CoreGuard::number).collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert!(ready(server.other.core_for_request(None)).is_none());
        drop(taken);
        assert_eq!(server.dispatch.busy(), 0);
    }

    #[tokio::test]
    async fn a_free_core_goes_to_the_own_request_but_none_waits_for_long() {
        let server = server(Limits { workers: 2, ..LIMITS });
        let held = server.worker.core_for_request(None).await.ok().unwrap();
        let mut of_other = Box::pin(server.other.core_for_request(None));
        assert!(ready(&mut of_other).is_none());
        let mut own = Box::pin(server.worker.core_for_request(None));
        assert!(ready(&mut own).is_none());
        let now = clock::now();
        for worker in &mut server.dispatch.state.lock().workers {
            worker.waiting[0].since = now;
        }
        drop(held);
        let held = ready(&mut own).expect("its own worker had the core").ok().unwrap();
        // One that comes later than is fair is not preferred.
        let mut own = Box::pin(server.worker.core_for_request(None));
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
        let _held = server.worker.core_for_request(None).await.ok().unwrap();
        server.deferred.schedule(0, Box::new([])).unwrap();
        turns(&mut Box::pin(server.worker.start_due())).await;
        let started = server.started.lock();
        let started: Vec<_> = started.iter().map(|(core, _)| (core.number(), core.worker())).collect();
        assert_eq!(started, [(1, 0)]);
    }

    #[tokio::test]
    async fn a_due_call_has_its_turn_while_requests_wait() {
        let server = server(LIMITS);
        let held = server.worker.core_for_request(None).await.ok().unwrap();
        let mut first = Box::pin(server.worker.core_for_request(None));
        let mut second = Box::pin(server.worker.core_for_request(None));
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

    /// Clients by the last number of their address.
    fn claims(cores_max: u32, waiting_max: u32) -> impl Fn(u8) -> Option<Arc<Claim>> {
        let clients = Clients::new(Bounds { connections_max: 100, cores_max, waiting_max });
        move |client| Some(clients.claim([192, 0, 2, client].into()).unwrap())
    }

    #[tokio::test]
    async fn a_client_waits_at_its_bound_and_others_pass_by() {
        let server = server(Limits { cores: 2, queue_max: 3, ..LIMITS });
        let claim = claims(1, 2);
        let held = server.worker.core_for_request(claim(1)).await.ok().unwrap();
        let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
        let mut more = Box::pin(server.worker.core_for_request(claim(1)));
        assert!(ready(&mut waiting).is_none() && ready(&mut more).is_none());
        // Not all of the queue is this client's either.
        let third = ready(server.worker.core_for_request(claim(1)));
        assert_eq!(third.unwrap().err(), Some(NoCore::QueueFull));
        for _ in 0..3 {
            // Its core becomes idle each time: nobody who waits may have it.
            assert!(ready(server.worker.core_for_request(claim(2))).unwrap().is_ok());
        }
        drop(held);
        let held = ready(&mut waiting).unwrap().ok().unwrap();
        assert!(ready(&mut more).is_none());
        drop(held);
        assert!(ready(&mut more).unwrap().is_ok());
        assert_eq!((server.dispatch.busy(), server.dispatch.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn one_behind_a_client_at_its_bound_gets_the_core() {
        let server = server(Limits { cores: 2, queue_max: 3, ..LIMITS });
        let claim = claims(1, 2);
        let first = server.worker.core_for_request(claim(1)).await.ok().unwrap();
        let second = server.worker.core_for_request(claim(2)).await.ok().unwrap();
        let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
        let mut behind = Box::pin(server.worker.core_for_request(claim(3)));
        assert!(ready(&mut waiting).is_none() && ready(&mut behind).is_none());
        drop(second);
        assert!(ready(&mut behind).unwrap().is_ok());
        assert!(ready(&mut waiting).is_none());
        drop(first);
        assert!(ready(&mut waiting).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_bounded_client_goes_on_though_its_core_goes_to_a_deferred_call() {
        let server = server(Limits { cores: 2, deferred_share: 99, ..LIMITS });
        let claim = claims(1, 2);
        let held = server.worker.core_for_request(claim(1)).await.ok().unwrap();
        let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
        assert!(ready(&mut waiting).is_none());
        server.deferred.schedule(0, Box::new([])).unwrap();
        server.dispatch.state.lock().share.credit = 99;
        drop(held);
        assert_eq!(server.started.lock().len(), 1);
        assert!(ready(&mut waiting).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_due_call_is_told_of_a_core_that_nobody_who_waits_may_have() {
        let server = server(Limits { cores: 2, deferred_share: 1, ..LIMITS });
        let claim = claims(1, 2);
        let _held = server.worker.core_for_request(claim(1)).await.ok().unwrap();
        let other = server.worker.core_for_request(claim(2)).await.ok().unwrap();
        let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
        assert!(ready(&mut waiting).is_none());
        let mut starter = Box::pin(server.worker.start_due());
        turns(&mut starter).await;
        server.deferred.schedule(0, Box::new([])).unwrap();
        drop(other);
        turns(&mut starter).await;
        assert_eq!(server.started.lock().len(), 1);
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
