//! Which core takes which call. Requests wait in a queue with a bound, deferred
//! calls in theirs (`deferred`), and a core that becomes free goes to the one or
//! the other, so that neither starves.
//!
//! All of it stands under one lock that is held for a few dozen nanoseconds. The
//! lock of `deferred` may be taken inside it, never the other way round.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::cores::{Core, CoreGuard};
use crate::deferred::{Call, Deferred};

/// The cores of a server. `I` is what a core keeps between calls.
pub struct Dispatch<I: Send + 'static> {
    state: Mutex<State<I>>,
    deferred: Arc<Deferred>,
    limits: Limits,
    /// Starts a deferred call on a core; it must not block.
    start: OnceLock<StartDeferred<I>>,
    /// Told whenever the last busy core became idle.
    all_idle: Notify,
}

type StartDeferred<I> = Box<dyn Fn(CoreGuard<I>, Call) + Send + Sync>;

/// What `Dispatch` may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub cores: u32,
    /// Requests that wait for a core.
    pub queue_max: usize,
    /// How long one waits at most.
    pub queue_time_max: Duration,
    /// Percent of the turns that go to deferred calls while both wait.
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
    /// A stack: the core that was used last has the warmest instance and caches.
    idle: Vec<Core<I>>,
    /// Requests in order of arrival, which is also the order of their tickets.
    waiting: VecDeque<Waiting<I>>,
    last_ticket: u64,
    share: Share,
}

struct Waiting<I: Send + 'static> {
    ticket: u64,
    core: oneshot::Sender<CoreGuard<I>>,
}

enum Next<I: Send + 'static> {
    Request(oneshot::Sender<CoreGuard<I>>),
    Deferred(Call),
}

impl<I: Send + 'static> Dispatch<I> {
    pub fn new(limits: Limits, deferred: Arc<Deferred>) -> Arc<Dispatch<I>> {
        let idle = (0..limits.cores).rev().map(|number| Core { number, instance: None }).collect();
        let share = Share { percent: limits.deferred_share, credit: 0 };
        Arc::new(Dispatch {
            state: Mutex::new(State { idle, waiting: VecDeque::new(), last_ticket: 0, share }),
            deferred,
            limits,
            start: OnceLock::new(),
            all_idle: Notify::new(),
        })
    }

    /// Says how a deferred call is started. Called once, before any is due.
    pub fn on_deferred(&self, start: impl Fn(CoreGuard<I>, Call) + Send + Sync + 'static) {
        let first = self.start.set(Box::new(start)).is_ok();
        assert!(first, "on_deferred is called once");
    }

    /// Takes a core for a request, at once or after those that wait already.
    pub async fn core_for_request(self: &Arc<Self>) -> Result<CoreGuard<I>, NoCore> {
        let (place, core) = {
            let mut state = self.state.lock();
            if let Some(core) = state.idle.pop() {
                return Ok(CoreGuard::new(core, self.clone()));
            }
            if state.waiting.len() >= self.limits.queue_max {
                return Err(NoCore::QueueFull);
            }
            state.last_ticket += 1;
            let (sender, receiver) = oneshot::channel();
            let ticket = state.last_ticket;
            state.waiting.push_back(Waiting { ticket, core: sender });
            (Place { ticket, dispatch: self }, receiver)
        };
        let core = tokio::time::timeout(self.limits.queue_time_max, core).await;
        drop(place);
        match core {
            Ok(Ok(core)) => Ok(core),
            Ok(Err(_)) | Err(_) => Err(NoCore::WaitedTooLong),
        }
    }

    /// Starts deferred calls that are due, as long as there are idle cores. The
    /// timer calls it; a core that becomes free looks by itself.
    pub fn start_due(self: &Arc<Self>) {
        loop {
            let (core, call) = {
                let mut state = self.state.lock();
                if state.idle.is_empty() {
                    return;
                }
                let Some(call) = self.deferred.take_due() else { return };
                (state.idle.pop().expect("an idle core was seen under this lock"), call)
            };
            self.start_deferred(core, call);
        }
    }

    /// Gives a core to whoever is next, or makes it idle.
    pub(crate) fn give_back(self: &Arc<Self>, mut core: Core<I>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                match self.next(&mut state) {
                    Some(next) => next,
                    None => {
                        state.idle.push(core);
                        if state.idle.len() == self.limits.cores as usize {
                            self.all_idle.notify_waiters();
                        }
                        return;
                    }
                }
            };
            match next {
                Next::Deferred(call) => return self.start_deferred(core, call),
                Next::Request(request) => match request.send(CoreGuard::new(core, self.clone())) {
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

    fn next(&self, state: &mut State<I>) -> Option<Next<I>> {
        let due = self.deferred.is_due();
        let request_waits = !state.waiting.is_empty();
        if due && (!request_waits || state.share.is_turn_of_deferred()) {
            // None if it was cancelled in this moment.
            if let Some(call) = self.deferred.take_due() {
                return Some(Next::Deferred(call));
            }
        }
        state.waiting.pop_front().map(|waiting| Next::Request(waiting.core))
    }

    fn start_deferred(self: &Arc<Self>, core: Core<I>, call: Call) {
        let start = self.start.get().expect("on_deferred is called before any call is due");
        start(CoreGuard::new(core, self.clone()), call);
    }

    /// Cores that a call holds.
    pub fn busy(&self) -> u32 {
        self.limits.cores - self.state.lock().idle.len() as u32
    }

    /// Requests that wait for a core.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
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

/// A request's place in the queue, left when the request gives up.
struct Place<'a, I: Send + 'static> {
    ticket: u64,
    dispatch: &'a Dispatch<I>,
}

impl<I: Send + 'static> Drop for Place<'_, I> {
    fn drop(&mut self) {
        let mut state = self.dispatch.state.lock();
        if let Ok(index) = state.waiting.binary_search_by_key(&self.ticket, |waiting| waiting.ticket) {
            state.waiting.remove(index);
        }
    }
}

/// Whose turn it is while both requests and deferred calls wait: `percent` of
/// the turns, evenly spread, belong to deferred calls.
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

    const LIMITS: Limits =
        Limits { cores: 1, queue_max: 2, queue_time_max: Duration::from_secs(3600), deferred_share: 50 };

    struct Server {
        dispatch: Arc<Dispatch<&'static str>>,
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
        let list = started.clone();
        dispatch.on_deferred(move |core, call| list.lock().push((core, call.id)));
        Server { dispatch, deferred, started }
    }

    fn ready<F: Future>(future: F) -> Option<F::Output> {
        futures::FutureExt::now_or_never(future)
    }

    #[tokio::test]
    async fn the_core_used_last_is_taken_first_with_its_instance() {
        let server = server(Limits { cores: 3, ..LIMITS });
        let first = server.dispatch.core_for_request().await.ok().unwrap();
        let mut second = server.dispatch.core_for_request().await.ok().unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        second.leave_instance("warm");
        drop(first);
        drop(second);
        let mut again = server.dispatch.core_for_request().await.ok().unwrap();
        assert_eq!((again.number(), again.take_instance()), (1, Some("warm")));
    }

    #[tokio::test]
    async fn requests_wait_in_order_and_only_so_many() {
        let server = server(LIMITS);
        let held = server.dispatch.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.dispatch.core_for_request());
        let mut second = Box::pin(server.dispatch.core_for_request());
        assert!(ready(&mut first).is_none());
        assert!(ready(&mut second).is_none());
        assert_eq!(ready(server.dispatch.core_for_request()).unwrap().err(), Some(NoCore::QueueFull));
        drop(held);
        assert!(ready(&mut second).is_none());
        assert!(ready(&mut first).unwrap().is_ok());
        assert!(ready(&mut second).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_request_that_gives_up_leaves_its_place() {
        let server = server(LIMITS);
        let held = server.dispatch.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.dispatch.core_for_request());
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
        let held = server.dispatch.core_for_request().await.ok().unwrap();
        let mut first = Box::pin(server.dispatch.core_for_request());
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
        server.dispatch.start_due();
        let running = std::mem::take(&mut *server.started.lock());
        assert_eq!(running.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [1, 2]);
        drop(running);
        assert_eq!(server.started.lock().pop().unwrap().1, 3);
    }

    #[tokio::test]
    async fn a_due_call_that_waits_for_a_core_can_be_cancelled() {
        let server = server(LIMITS);
        let held = server.dispatch.core_for_request().await.ok().unwrap();
        let id = server.deferred.schedule(0, Box::new([])).unwrap();
        server.dispatch.start_due();
        assert!(server.deferred.cancel(id));
        drop(held);
        assert!(server.started.lock().is_empty());
        assert_eq!(server.dispatch.busy(), 0);
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
