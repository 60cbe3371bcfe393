//! The thread that keeps a store: it writes what is asked for, many things in one transaction, and
//! brings what is due into memory, no more than may start soon.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;

use crate::clock::{self, Nanos};
use crate::queue::{Limits, ScheduleError, Stored, TimerId};
use crate::ready::Ready;
use crate::retry::Retry;
use crate::shown::Shown;
use crate::store::{Claim, Claimed, New, Next, Run, Store, UnixNanos};

/// Commands that one transaction takes.
const COMMANDS_MAX: usize = 4096;
/// Other servers may have scheduled something, or have ended.
const LOOK_TIME: Duration = Duration::from_secs(1);
/// After an error, the store is tried again so soon.
const AGAIN_TIME: Duration = Duration::from_millis(200);
const UNAVAILABLE: &str = "the store of deferred calls cannot be used now";
const SET_ASIDE_LOOK_TIME: Duration = Duration::from_secs(600);

/// How a store is used.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limits: Limits,
    pub retry: Retry,
    /// Calls that are in memory and wait for their start.
    pub ready_max: usize,
    /// A server that has ended holds its calls so long.
    pub lease: Duration,
    /// How long calls are kept that were set aside.
    pub keep: Duration,
}

/// The number of a call, or why it was not scheduled.
pub(crate) type Scheduled = Result<TimerId, ScheduleError>;

/// What the thread is asked for. Whoever waits for an answer has left if nobody receives it any more.
pub(crate) enum Command {
    Schedule {
        delay: Delay,
        payload: Box<[u8]>,
        answer: oneshot::Sender<Scheduled>,
    },
    Cancel {
        id: TimerId,
        answer: oneshot::Sender<bool>,
    },
    /// A run has ended: well, or with an error.
    Ended {
        run: Run,
        attempt: u32,
        result: Result<(), String>,
    },
    /// Somebody wants to know when all that was asked before is written.
    Settle {
        answer: oneshot::Sender<()>,
    },
    /// Calls can be run from now on.
    Begin,
    /// Calls have started, so there is room for more.
    Room,
    /// The server stops: what it has not started, and what it has not ended, others may have.
    Stop {
        answer: oneshot::Sender<Option<u64>>,
    },
}

/// When a call is due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delay {
    /// So long after it was scheduled, at a time of this process.
    After(Nanos, Nanos),
    /// At a time of this process.
    At(Nanos),
}

pub(crate) struct Keeper {
    pub(crate) store: Box<dyn Store>,
    pub(crate) settings: Settings,
    pub(crate) ready: Arc<Ready>,
    pub(crate) shown: Arc<Shown>,
    /// Told once when the store cannot be used, and once when it can be again.
    pub(crate) tell: Box<dyn Fn(&str) + Send>,
    /// Calls that this server has, each with its run.
    pub(crate) claimed: HashMap<TimerId, Run>,
    /// Ends of runs that are not written yet.
    pub(crate) unwritten: Vec<Ended>,
    /// Calls that were written for somebody who left in this moment, with their runs.
    pub(crate) forgotten: Vec<(TimerId, Option<Run>)>,
    /// When leases are to be extended, and what was set aside is to be looked at.
    pub(crate) extend_at: Nanos,
    pub(crate) remove_at: Nanos,
    /// Calls can be run. Before that none is taken: an attempt would be counted.
    pub(crate) has_begun: bool,
    pub(crate) is_broken: bool,
}

/// How a run has ended.
pub(crate) struct Ended {
    run: Run,
    attempt: u32,
    result: Result<(), String>,
}

/// One moment on two clocks: the store's, and that of this process.
#[derive(Clone, Copy)]
struct Moment {
    now: UnixNanos,
    here: Nanos,
}

impl Moment {
    fn in_store(self, nanos: Nanos) -> UnixNanos {
        self.now.saturating_add(nanos).saturating_sub(self.here)
    }

    fn in_process(self, unix: UnixNanos) -> Nanos {
        self.here.saturating_add(unix).saturating_sub(self.now).max(1)
    }
}

/// What is to be done once a transaction stands.
struct Done {
    moment: Moment,
    scheduled: Vec<(oneshot::Sender<Scheduled>, Scheduled)>,
    cancelled: Vec<(oneshot::Sender<bool>, bool)>,
    claimed: Vec<Claimed>,
    settled: Vec<oneshot::Sender<()>>,
    ended: Vec<Run>,
    lost: Vec<Run>,
    retried: u64,
    /// Calls, with their runs.
    set_aside: Vec<(TimerId, u32)>,
    first_due: Option<UnixNanos>,
}

impl Done {
    fn at(moment: Moment) -> Done {
        Done {
            moment,
            scheduled: Vec::new(),
            cancelled: Vec::new(),
            claimed: Vec::new(),
            settled: Vec::new(),
            ended: Vec::new(),
            lost: Vec::new(),
            retried: 0,
            set_aside: Vec::new(),
            first_due: None,
        }
    }
}

impl Keeper {
    /// Until nobody can ask any more, or the server stops.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        let mut wait = Duration::ZERO;
        loop {
            let mut asked = match commands.recv_timeout(wait) {
                Ok(command) => vec![command],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.stop();
                    return;
                }
            };
            asked.extend(commands.try_iter().take(COMMANDS_MAX));
            let stop = asked.iter().position(|command| matches!(command, Command::Stop { .. }));
            let stop = stop.map(|at| asked.remove(at));
            wait = self.step(asked);
            if let Some(Command::Stop { answer }) = stop {
                let _ = answer.send(self.stop());
                return;
            }
        }
    }

    /// One transaction. Gives how long nothing is to be done.
    pub(crate) fn step(&mut self, asked: Vec<Command>) -> Duration {
        let mut refusals = Vec::new();
        match self.transact(asked, &mut refusals) {
            Ok(done) => {
                if std::mem::take(&mut self.is_broken) {
                    (self.tell)("the store of deferred calls can be used again");
                }
                self.finish(done)
            }
            Err(error) => {
                self.store.close();
                // Nobody waits for what cannot be taken.
                self.shown.note_first_due(None);
                if !std::mem::replace(&mut self.is_broken, true) {
                    (self.tell)(&format!("the store of deferred calls cannot be used: {error:#}"));
                }
                // The reason may have names of this machine's in it, which are not for guests.
                for answer in refusals {
                    let _ = answer.send(Err(ScheduleError::Unavailable(UNAVAILABLE.to_owned())));
                }
                AGAIN_TIME
            }
        }
    }

    /// `waiting` are those that are refused if it fails; who waits for a cancellation hears false.
    fn transact(
        &mut self,
        asked: Vec<Command>,
        waiting: &mut Vec<oneshot::Sender<Scheduled>>,
    ) -> Result<Done> {
        let (mut schedule, mut cancel, mut settle) = (Vec::new(), Vec::new(), Vec::new());
        for command in asked {
            match command {
                Command::Schedule { delay, payload, answer } => {
                    schedule.push((delay, payload));
                    waiting.push(answer);
                }
                Command::Cancel { id, answer } => cancel.push((id, answer)),
                Command::Ended { run, attempt, result } => {
                    self.unwritten.push(Ended { run, attempt, result })
                }
                Command::Settle { answer } => settle.push(answer),
                Command::Begin => self.has_begun = true,
                Command::Room | Command::Stop { .. } => {}
            }
        }
        self.store.begin()?;
        let mut done = Done::at(Moment { here: clock::now(), now: self.store.now()? });
        let mut scheduled = Vec::new();
        for ((delay, payload), answer) in schedule.into_iter().zip(waiting.iter()) {
            // Who has left was told nothing, so nothing stands.
            let is_there = !answer.is_closed();
            scheduled.push(if is_there { Some(self.schedule(done.moment, delay, payload)?) } else { None });
        }
        for (id, answer) in cancel {
            if !answer.is_closed() {
                done.cancelled.push((answer, self.store.cancel(id)?));
            }
        }
        self.forget()?;
        self.write_ends(&mut done)?;
        self.extend(&mut done)?;
        self.claim(&mut done)?;
        self.remove_set_aside(done.moment)?;
        done.first_due = self.store.first_due()?;
        let counts = self.store.counts()?;
        self.store.commit()?;
        self.shown.note(&counts);
        let answered = std::mem::take(waiting).into_iter().zip(scheduled);
        done.scheduled = answered.filter_map(|(answer, result)| Some((answer, result?))).collect();
        done.settled = settle;
        Ok(done)
    }

    fn schedule(&mut self, moment: Moment, delay: Delay, payload: Box<[u8]>) -> Result<Scheduled> {
        let (scheduled, due) = match delay {
            Delay::After(from, delay) => {
                let from = moment.in_store(from);
                (from, from.saturating_add(delay))
            }
            Delay::At(due) => (moment.now, moment.in_store(due)),
        };
        self.store.schedule(&New { payload, scheduled, due }, &self.settings.limits)
    }

    /// What was written for somebody who was told nothing does not stand.
    fn forget(&mut self) -> Result<()> {
        for (id, run) in &self.forgotten {
            match run {
                Some(run) => _ = self.store.end(*run, &Next::Gone)?,
                None => _ = self.store.cancel(*id)?,
            }
        }
        Ok(())
    }

    fn remove_set_aside(&mut self, moment: Moment) -> Result<()> {
        if moment.here >= self.remove_at {
            let keep = self.settings.keep.as_nanos() as UnixNanos;
            self.store.remove_set_aside(moment.now.saturating_sub(keep))?;
            self.remove_at = moment.here + SET_ASIDE_LOOK_TIME.as_nanos() as Nanos;
        }
        Ok(())
    }

    fn write_ends(&mut self, done: &mut Done) -> Result<()> {
        let now = done.moment.now;
        for Ended { run, attempt, result } in &self.unwritten {
            let next = match result {
                Ok(()) => Next::Gone,
                Err(error) => match self.settings.retry.delay(*attempt) {
                    Some(delay) => Next::Again { due: now + delay.as_nanos() as u64, error: error.clone() },
                    None => Next::SetAside { at: now, error: error.clone() },
                },
            };
            if self.store.end(*run, &next)? {
                done.retried += u64::from(matches!(next, Next::Again { .. }));
                if let Next::SetAside { .. } = next {
                    done.set_aside.push((run.id, *attempt));
                }
            }
            done.ended.push(*run);
        }
        Ok(())
    }

    /// Before calls are claimed: so none of this server's own is, however long the store was away.
    fn extend(&mut self, done: &mut Done) -> Result<()> {
        if done.moment.here < self.extend_at {
            return Ok(());
        }
        let until = done.moment.now + self.settings.lease.as_nanos() as u64;
        for &run in self.claimed.values() {
            if !done.ended.contains(&run) && !self.store.extend(run, until)? {
                done.lost.push(run);
            }
        }
        Ok(())
    }

    fn claim(&mut self, done: &mut Done) -> Result<()> {
        let room = self.settings.ready_max.saturating_sub(self.ready.pending() as usize);
        if room == 0 || !self.has_begun {
            return Ok(());
        }
        let due_max = self.ready.last_due().map_or(u64::MAX, |last| done.moment.in_store(last));
        done.claimed = self.store.claim(&Claim {
            now: done.moment.now,
            due_max,
            calls_max: room,
            lease: self.settings.lease,
            attempts_max: self.settings.retry.attempts_max,
        })?;
        Ok(())
    }

    /// Tells those who wait, and lets start what was claimed.
    fn finish(&mut self, mut done: Done) -> Duration {
        let moment = done.moment;
        self.unwritten.clear();
        self.forgotten.clear();
        if moment.here >= self.extend_at {
            self.extend_at = moment.here + (self.settings.lease / 3).as_nanos() as Nanos;
        }
        for run in &done.lost {
            // One that has not started here runs elsewhere.
            self.ready.cancel(run.id);
        }
        for run in done.ended.iter().chain(&done.lost) {
            if self.claimed.get(&run.id) == Some(run) {
                self.claimed.remove(&run.id);
            }
        }
        self.shown.note_retried(done.retried);
        for (id, runs) in done.set_aside.drain(..) {
            (self.tell)(&format!(
                "deferred call {id} is set aside after {runs} runs; wasm-serve calls shows it"
            ));
        }
        // Before anybody is answered, who may ask for these.
        let first = done.first_due.map(|first| moment.in_process(first));
        self.shown.note_first_due(first);
        self.answer(&mut done);
        for Claimed { id, payload, scheduled, due, attempt, run } in done.claimed {
            self.claimed.insert(id, run);
            let (scheduled, due) = (moment.in_process(scheduled), moment.in_process(due).min(moment.here));
            self.ready.add(Stored { id, payload, scheduled, due, attempt, run: run.number });
        }
        // What was claimed is in memory when it is said to be settled.
        done.settled.into_iter().for_each(|answer| _ = answer.send(()));
        self.wait(first)
    }

    fn answer(&mut self, done: &mut Done) {
        for (answer, result) in done.scheduled.drain(..) {
            let id = result.as_ref().ok().copied();
            if let (Err(_), Some(id)) = (answer.send(result), id) {
                let claimed = done.claimed.iter().position(|call| call.id == id);
                self.forgotten.push((id, claimed.map(|at| done.claimed.swap_remove(at).run)));
            }
        }
        done.claimed.sort_by_key(|call| (call.due, call.id));
        for (answer, cancelled) in done.cancelled.drain(..) {
            let _ = answer.send(cancelled);
        }
    }

    /// How long nothing is to be done, if the first call that is not in memory is due then.
    fn wait(&self, first: Option<Nanos>) -> Duration {
        if !self.forgotten.is_empty() {
            return Duration::ZERO;
        }
        let until = |nanos: Nanos| Duration::from_nanos(nanos.saturating_sub(clock::now()));
        let mut wait = LOOK_TIME;
        if !self.claimed.is_empty() {
            wait = wait.min(until(self.extend_at));
        }
        if let Some(first) = first.filter(|first| self.ready.last_due().is_none_or(|last| *first <= last))
            && self.has_begun
            && !self.is_full()
        {
            wait = wait.min(until(first));
        }
        wait
    }

    /// If so, whoever starts a call tells it.
    fn is_full(&self) -> bool {
        let is_full = || self.ready.pending() as usize >= self.settings.ready_max;
        if is_full() {
            self.shown.want_room();
        }
        // Some may have started meanwhile.
        is_full()
    }

    /// What is written when the server stops: others may have what it has not ended. Gives how many calls
    /// the store has then.
    pub(crate) fn stop(&mut self) -> Option<u64> {
        self.ready.clear();
        let released = self.release();
        let told = |error| {
            (self.tell)(&format!(
                "the store of deferred calls cannot be used: {error:#}; {} calls run when their leases have ended",
                self.claimed.len()
            ));
        };
        released.map_err(told).ok()
    }

    fn release(&mut self) -> Result<u64> {
        self.store.begin()?;
        let mut done = Done::at(Moment { here: clock::now(), now: self.store.now()? });
        self.forget()?;
        self.write_ends(&mut done)?;
        for run in self.claimed.values().filter(|run| !done.ended.contains(run)) {
            self.store.end(*run, &Next::Released)?;
        }
        let counts = self.store.counts()?;
        self.store.commit()?;
        Ok(counts.pending)
    }
}
