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

pub(crate) mod clients;
mod queues;
pub(crate) mod timer;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use self::clients::Claim;
use self::queues::{Core, Queues, Waiting};
use crate::deferred::{Call, Deferred};

/// The cores of a server. `I` is what a core keeps between calls.
pub(crate) struct Dispatch<I: Send + 'static> {
    queues: Mutex<Queues<I, Reply<I>>>,
    deferred: Arc<Deferred>,
    limits: Limits,
    /// Where each worker gets deferred calls with the cores that other calls gave back. So no
    /// more than there are cores are on the way.
    given: Vec<mpsc::UnboundedSender<(CoreGuard<I>, Call)>>,
    /// Told to each worker when calls may be due and cores idle.
    due: Vec<Notify>,
    /// Told whenever the last busy core became idle.
    all_idle: Notify,
}

/// Where a request that waits gets its core from.
type Reply<I> = oneshot::Sender<CoreGuard<I>>;

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
pub(crate) enum NoCore {
    /// As many requests wait as may.
    QueueFull,
    /// It waited as long as it may.
    WaitedTooLong,
}

enum Next<I: Send + 'static> {
    Request(Waiting<Reply<I>>),
    Deferred(Call),
}

impl<I: Send + 'static> Dispatch<I> {
    /// Makes it, with the part of each worker.
    pub(crate) fn new(limits: Limits, deferred: Arc<Deferred>) -> (Arc<Dispatch<I>>, Vec<Calls<I>>) {
        let channels = (0..limits.workers).map(|_| mpsc::unbounded_channel());
        let (given, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let dispatch = Arc::new(Dispatch {
            queues: Mutex::new(Queues::new(limits.cores, limits.workers, limits.deferred_share)),
            deferred,
            limits,
            given,
            due: (0..limits.workers).map(|_| Notify::new()).collect(),
            all_idle: Notify::new(),
        });
        let part = |(number, given)| {
            let worker = Arc::new(Worker { number, dispatch: dispatch.clone() });
            Calls { worker, given, took_idle: false }
        };
        let parts = receivers.into_iter().enumerate().map(part).collect();
        (dispatch, parts)
    }

    /// Tells the workers that calls came due. A core that becomes free while none
    /// is idle takes a call by itself.
    pub(crate) fn calls_are_due(&self) {
        self.due.iter().for_each(Notify::notify_one);
    }

    /// Who gets the core that a worker's call has given back.
    fn next(&self, queues: &mut Queues<I, Reply<I>>, worker: usize, core: &mut Core<I>) -> Option<Next<I>> {
        queues.release(core);
        let is_due = self.deferred.is_due();
        // Also while no request waits: one that needs no waiting has come and gone
        // before `Calls::next` has its turn.
        if is_due && queues.share.is_turn_of_deferred() {
            // None if it was cancelled in this moment.
            if let Some(call) = self.deferred.take_due() {
                queues.hold(worker, core);
                return Some(Next::Deferred(call));
            }
        }
        if let Some((its_worker, waiting)) = queues.pop_waiting(worker) {
            queues.hold(its_worker, core);
            return Some(Next::Request(waiting));
        }
        if is_due {
            // The core becomes idle, and `Calls::next` may take it.
            self.due[worker].notify_one();
        }
        None
    }

    /// Cores that a call holds.
    pub(crate) fn busy(&self) -> u32 {
        self.limits.cores - self.queues.lock().idle()
    }

    /// Requests that wait for a core.
    pub(crate) fn waiting(&self) -> usize {
        self.queues.lock().waiting()
    }

    /// Takes from the idle cores what `is_wanted` of what they keep between calls. The lock
    /// is held for some nanoseconds a core.
    pub(crate) fn take_kept(&self, is_wanted: impl Fn(&I) -> bool) -> Vec<I> {
        let mut queues = self.queues.lock();
        let cores = queues.idle_cores();
        cores.filter_map(|core| core.instance.take_if(|instance| is_wanted(instance))).collect()
    }

    /// Takes what one idle core has kept, the one that has been idle for the longest of its
    /// worker's.
    fn take_coldest_kept(&self) -> Option<I> {
        let mut queues = self.queues.lock();
        let mut cores = queues.idle_cores();
        cores.find_map(|core| core.instance.take())
    }

    /// Waits until no call holds a core.
    pub(crate) async fn idle(&self) {
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
pub(crate) struct Worker<I: Send + 'static> {
    number: usize,
    dispatch: Arc<Dispatch<I>>,
}

impl<I: Send + 'static> Worker<I> {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    fn take_due(self: &Arc<Self>) -> Option<(CoreGuard<I>, Call)> {
        if !self.dispatch.deferred.is_due() {
            return None;
        }
        let mut queues = self.dispatch.queues.lock();
        let call = if queues.idle() > 0 { self.dispatch.deferred.take_due()? } else { return None };
        let core = queues.take_idle(self.number).expect("an idle core was seen under this lock");
        Some((CoreGuard::new(core, self.clone(), None), call))
    }

    /// Takes a core for a request, at once or after those that wait already. `claim` is
    /// its client's, if that is counted.
    pub(crate) async fn core_for_request(
        self: &Arc<Self>,
        claim: Option<Arc<Claim>>,
    ) -> Result<CoreGuard<I>, NoCore> {
        let (place, core) = {
            let mut queues = self.dispatch.queues.lock();
            if claim.as_ref().is_none_or(|claim| claim.may_take_core())
                && let Some(core) = queues.take_idle(self.number)
            {
                if let Some(claim) = &claim {
                    claim.take_core();
                }
                return Ok(CoreGuard::new(core, self.clone(), claim));
            }
            let may_wait = claim.as_ref().is_none_or(|claim| claim.may_wait());
            if queues.waiting() >= self.dispatch.limits.queue_max || !may_wait {
                return Err(NoCore::QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = queues.push_waiting(self.number, claim, sender);
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
    pub(crate) fn take_coldest_kept(&self) -> Option<I> {
        self.dispatch.take_coldest_kept()
    }

    /// Gives a core to whoever is next, or makes it idle. `claim` is of the client that
    /// held it.
    fn give_back(self: &Arc<Self>, mut core: Core<I>, mut claim: Option<Arc<Claim>>) {
        let dispatch = &self.dispatch;
        loop {
            let (next, is_one_waiting) = {
                let mut queues = dispatch.queues.lock();
                if let Some(claim) = &claim {
                    claim.give_core_back();
                }
                match dispatch.next(&mut queues, self.number, &mut core) {
                    Some(next) => (next, queues.waiting() > 0),
                    None => return self.put_idle(&mut queues, core),
                }
            };
            match next {
                Next::Deferred(call) => {
                    let core = CoreGuard::new(core, self.clone(), None);
                    if let Err(refused) = dispatch.given[self.number].send((core, call)) {
                        // The worker has ended, and with it the server.
                        self.leave_idle(refused.0.0);
                        return;
                    }
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

    fn put_idle(&self, queues: &mut Queues<I, Reply<I>>, core: Core<I>) {
        queues.put_idle(self.number, core);
        if queues.idle() == self.dispatch.limits.cores {
            self.dispatch.all_idle.notify_waiters();
        }
    }

    /// Makes a core idle, whoever waits for one.
    fn leave_idle(&self, core: CoreGuard<I>) {
        if let Some((core, _)) = core.into_parts() {
            let mut queues = self.dispatch.queues.lock();
            queues.release(&core);
            self.put_idle(&mut queues, core);
        }
    }

    /// The client of a call that ended may have another one now, though its core went to a
    /// deferred call: that one takes an idle core, if there is one.
    fn start_waiting(self: &Arc<Self>) {
        let (core, Waiting { core: request, claim, .. }) = {
            let mut queues = self.dispatch.queues.lock();
            if queues.idle() == 0 {
                return;
            }
            let Some((worker, waiting)) = queues.pop_waiting(self.number) else { return };
            let core = queues.take_idle(worker).expect("an idle core was seen under this lock");
            (core, waiting)
        };
        // If it left in this moment, its core is given back as it is dropped.
        let _ = request.send(CoreGuard::new(core, self.clone(), claim));
    }
}

/// The deferred calls that a worker is to start: its part of the dispatch that nobody shares.
pub(crate) struct Calls<I: Send + 'static> {
    worker: Arc<Worker<I>>,
    /// Those that got a core as it became free.
    given: mpsc::UnboundedReceiver<(CoreGuard<I>, Call)>,
    /// The last one took a core that was idle.
    took_idle: bool,
}

impl<I: Send + 'static> Calls<I> {
    pub(crate) fn worker(&self) -> &Arc<Worker<I>> {
        &self.worker
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> (CoreGuard<I>, Call) {
        if std::mem::take(&mut self.took_idle) {
            // tokio looks for requests before this task runs again: they take idle cores, too.
            tokio::task::yield_now().await;
        }
        loop {
            if let Ok(given) = self.given.try_recv() {
                return given;
            }
            if let Some(taken) = self.worker.take_due() {
                self.took_idle = true;
                return taken;
            }
            tokio::select! {
                Some(given) = self.given.recv() => return given,
                () = self.worker.dispatch.due[self.worker.number].notified() => {}
            }
        }
    }
}

/// A core that is taken by a call. Dropping it gives the core back.
pub(crate) struct CoreGuard<I: Send + 'static> {
    core: Option<Core<I>>,
    /// Who gives it back.
    worker: Arc<Worker<I>>,
    /// The client that holds it, if that is counted.
    claim: Option<Arc<Claim>>,
}

impl<I: Send + 'static> CoreGuard<I> {
    fn new(core: Core<I>, worker: Arc<Worker<I>>, claim: Option<Arc<Claim>>) -> CoreGuard<I> {
        CoreGuard { core: Some(core), worker, claim }
    }

    /// The core, taken over from the worker that gave it.
    fn moved_to(mut self, worker: &Arc<Worker<I>>) -> CoreGuard<I> {
        if self.worker.number() != worker.number() {
            self.worker = worker.clone();
        }
        self
    }

    /// The core's number.
    pub(crate) fn number(&self) -> u32 {
        self.core.as_ref().map_or(0, |core| core.number)
    }

    /// Takes the instance that an earlier call left.
    pub(crate) fn take_instance(&mut self) -> Option<I> {
        self.core.as_mut().and_then(|core| core.instance.take())
    }

    /// Leaves an instance for the next call.
    pub(crate) fn leave_instance(&mut self, instance: I) {
        if let Some(core) = self.core.as_mut() {
            core.instance = Some(instance);
        }
    }

    fn into_parts(mut self) -> Option<(Core<I>, Option<Arc<Claim>>)> {
        Some((self.core.take()?, self.claim.take()))
    }
}

impl<I: Send + 'static> Drop for CoreGuard<I> {
    fn drop(&mut self) {
        if let Some(core) = self.core.take() {
            self.worker.give_back(core, self.claim.take());
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
        let left = self.worker.dispatch.queues.lock().remove_waiting(self.worker.number, self.ticket);
        drop(left);
    }
}

#[cfg(test)]
mod tests;
