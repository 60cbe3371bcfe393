//! Deferred calls: who schedules them, which of them are due, and where they are kept until then. In memory
//! they live as long as the server. In a store they outlive it: what was acknowledged was written. This
//! crate knows nothing of WebAssembly or HTTP.

pub mod clock;
pub mod handled;
mod keeper;
mod queue;
mod ready;
mod retry;
mod shown;
pub mod sqlite;
pub mod store;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use self::clock::Nanos;
pub use self::keeper::Settings;
use self::keeper::{Command, Delay, Keeper};
pub use self::queue::{Call, Limits, ScheduleError, TimerId};
use self::ready::Ready;
pub use self::retry::Retry;
pub use self::shown::Shown;
use self::store::{Run, Store};

/// A guest that schedules hears within this time that the store does not answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// The deferred calls of a server.
pub struct Deferred {
    ready: Arc<Ready>,
    kept: Option<Kept>,
}

/// The thread that keeps the store.
struct Kept {
    limits: Limits,
    commands: Sender<Command>,
    shown: Arc<Shown>,
    _thread: JoinHandle<()>,
}

impl Deferred {
    /// In memory alone: what is pending goes with the server.
    pub fn new(limits: Limits) -> Deferred {
        Deferred { ready: Arc::new(Ready::new(limits)), kept: None }
    }

    /// In a store. `tell` is told when it cannot be used, and when it can be again.
    pub fn stored(
        store: Box<dyn Store>,
        settings: Settings,
        tell: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Deferred> {
        let (ready, shown) = (Arc::new(Ready::new(settings.limits)), Arc::new(Shown::default()));
        let keeper = Keeper {
            store,
            settings,
            ready: ready.clone(),
            shown: shown.clone(),
            tell: Box::new(tell),
            claimed: HashMap::new(),
            unwritten: Vec::new(),
            forgotten: Vec::new(),
            extend_at: 0,
            remove_at: 0,
            has_begun: false,
            is_broken: false,
        };
        let (commands, asked) = channel();
        let thread = std::thread::Builder::new().name("store".into());
        let thread = thread.spawn(move || keeper.run(&asked))?;
        let kept = Kept { limits: settings.limits, commands, shown, _thread: thread };
        Ok(Deferred { ready, kept: Some(kept) })
    }

    /// Lets the calls of the store start here. Until then they stay there: a server that does not come to
    /// serve, or whose guest has no callback, has none.
    pub fn begin(&self) {
        if let Some(kept) = &self.kept {
            let _ = kept.commands.send(Command::Begin);
        }
    }

    /// What the store shows of itself, if there is one.
    pub fn store(&self) -> Option<&Shown> {
        self.kept.as_ref().map(|kept| &*kept.shown)
    }

    /// Adds a call that starts `delay` after now at the earliest. In a store, the call is written when its
    /// number is there.
    pub fn schedule(&self, delay: Nanos, payload: Box<[u8]>) -> Asked {
        match &self.kept {
            None => Asked::Answered(self.ready.schedule(delay, payload)),
            Some(kept) => kept.schedule(delay, Delay::After(clock::now(), delay), payload),
        }
    }

    /// The same at a given time, which may have passed: then it starts before those that are due later.
    pub fn schedule_at(&self, due: Nanos, payload: Box<[u8]>) -> Asked {
        match &self.kept {
            None => Asked::Answered(self.ready.schedule_at(due, payload)),
            Some(kept) => {
                let now = clock::now();
                // One that is scheduled after the last time is not due before it.
                let is_late = self.ready.last_due().is_some_and(|last| now > last);
                let due = if is_late { due.max(now) } else { due };
                kept.schedule(due.saturating_sub(now), Delay::At(due), payload)
            }
        }
    }

    /// True if and only if the call was pending and now never starts. In a store, one that a server has taken
    /// cannot be cancelled.
    pub async fn cancel(&self, id: TimerId) -> bool {
        match &self.kept {
            None => self.ready.cancel(id),
            Some(kept) => kept.cancel(id).await,
        }
    }

    /// Takes out the call to start next, if one is due.
    pub fn take_due(&self) -> Option<Call> {
        let call = self.ready.take_due()?;
        if let Some(kept) = &self.kept
            && kept.shown.takes_room()
        {
            let _ = kept.commands.send(Command::Room);
        }
        Some(call)
    }

    /// A run has ended, well or with an error. In memory nothing becomes of it.
    pub fn ended(&self, id: TimerId, run: u64, attempt: u32, result: Result<(), String>) {
        if let Some(kept) = &self.kept {
            let _ = kept.commands.send(Command::Ended { run: Run { id, number: run }, attempt, result });
        }
    }

    /// Waits until what was asked of the store before is written, and what is due is in memory. False if that
    /// cannot be had.
    pub async fn settle(&self) -> bool {
        let Some(kept) = &self.kept else { return true };
        let (answer, answered) = oneshot::channel();
        let asked = kept.commands.send(Command::Settle { answer });
        asked.is_ok() && matches!(tokio::time::timeout(ANSWER_TIME_MAX, answered).await, Ok(Ok(())))
    }

    /// A call is due, and waits for a core only.
    pub fn is_due(&self) -> bool {
        self.ready.is_due()
    }

    /// The time now, such that no call that is due before it is still on its way
    /// into the queue.
    pub fn now(&self) -> Nanos {
        self.ready.now()
    }

    /// Waits until a call comes due, of those that were not due before `from`, or one is added
    /// that was due already. Only the timer waits here, which is a thread: the timers of the
    /// runtime know nothing finer than milliseconds.
    pub fn wait_until_due(&self, from: Nanos) {
        self.ready.wait_until_due(from);
    }

    /// From now on, calls that are due after `last` are not started.
    pub fn close_after(&self, last: Nanos) {
        self.ready.close_after(last);
    }

    /// When the first call is due, if it may still start.
    pub fn first_due(&self) -> Option<Nanos> {
        let in_store = self.store().and_then(Shown::first_due);
        let in_store = in_store.filter(|due| self.ready.last_due().is_none_or(|last| *due <= last));
        self.ready.first_due().into_iter().chain(in_store).min()
    }

    /// Calls that have not been started or cancelled; in a store those that have not ended, too.
    pub fn pending(&self) -> u64 {
        self.store().map_or_else(|| self.ready.pending(), Shown::pending)
    }

    /// The ids of the first `max` pending calls that are in memory.
    pub fn ids(&self, max: usize) -> Vec<TimerId> {
        self.ready.ids(max)
    }

    /// Lets others have what this server has not ended, and gives how many calls the store has then, if it
    /// says so. Nothing can be scheduled afterwards.
    pub async fn stop(&self) -> Option<u64> {
        let (answer, answered) = oneshot::channel();
        self.kept.as_ref()?.commands.send(Command::Stop { answer }).ok()?;
        // It may be in the middle of a transaction that waits for another server's, and then wait itself.
        tokio::time::timeout(2 * ANSWER_TIME_MAX, answered).await.ok()?.ok()?
    }
}

/// What becomes of a call that is to be kept.
pub enum Asked {
    /// It is known already.
    Answered(Result<TimerId, ScheduleError>),
    /// The store will say it.
    Waits(oneshot::Receiver<Result<TimerId, ScheduleError>>),
}

impl Asked {
    /// Waits for it, and not for long.
    pub async fn answer(self) -> Result<TimerId, ScheduleError> {
        match self {
            Asked::Answered(result) => result,
            Asked::Waits(answer) => match tokio::time::timeout(ANSWER_TIME_MAX, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => unavailable("the server stops"),
                Err(_) => unavailable("the store of deferred calls does not answer"),
            },
        }
    }
}

fn unavailable(reason: &str) -> Result<TimerId, ScheduleError> {
    Err(ScheduleError::Unavailable(reason.to_owned()))
}

impl Kept {
    fn schedule(&self, delay: Nanos, when: Delay, payload: Box<[u8]>) -> Asked {
        if let Err(refused) = self.limits.check(delay, payload.len()) {
            return Asked::Answered(Err(refused));
        }
        let (answer, answered) = oneshot::channel();
        match self.commands.send(Command::Schedule { delay: when, payload, answer }) {
            Ok(()) => Asked::Waits(answered),
            Err(_) => Asked::Answered(unavailable("the server stops")),
        }
    }

    async fn cancel(&self, id: TimerId) -> bool {
        let (answer, answered) = oneshot::channel();
        let asked = self.commands.send(Command::Cancel { id, answer });
        asked.is_ok() && matches!(tokio::time::timeout(ANSWER_TIME_MAX, answered).await, Ok(Ok(true)))
    }
}

#[cfg(test)]
mod tests;
