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
        result: Result<(), String>,
    },
    /// Calls have started, so there is room for more.
    Room,
    /// The server stops: what it has not started, and what it has not ended, others may have.
    Stop {
        answer: oneshot::Sender<u64>,
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
    pub(crate) claimed: HashMap<TimerId, u32>,
    /// Ends of runs that are not written yet.
    pub(crate) unwritten: Vec<(Run, Result<(), String>)>,
    /// When leases are to be extended.
    pub(crate) extend_at: UnixNanos,
    pub(crate) remove_at: UnixNanos,
    pub(crate) is_broken: bool,
}

/// What is to be done once a transaction stands.
#[derive(Default)]
struct Done {
    scheduled: Vec<(oneshot::Sender<Scheduled>, Scheduled)>,
    cancelled: Vec<(oneshot::Sender<bool>, bool)>,
    claimed: Vec<Claimed>,
    ended: Vec<Run>,
    lost: Vec<Run>,
    retried: u64,
    first_due: Option<UnixNanos>,
    now: UnixNanos,
}

impl Keeper {
    /// Until nobody can ask any more, or the server stops.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        let mut wait = Duration::ZERO;
        loop {
            let mut asked = match commands.recv_timeout(wait) {
                Ok(command) => vec![command],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
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
                let reason = format!("the store of deferred calls cannot be used: {error:#}");
                if !std::mem::replace(&mut self.is_broken, true) {
                    (self.tell)(&reason);
                }
                for answer in refusals {
                    let _ = answer.send(Err(ScheduleError::Unavailable(reason.clone())));
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
        let (mut schedule, mut cancel) = (Vec::new(), Vec::new());
        for command in asked {
            match command {
                Command::Schedule { delay, payload, answer } => {
                    schedule.push((delay, payload));
                    waiting.push(answer);
                }
                Command::Cancel { id, answer } => cancel.push((id, answer)),
                Command::Ended { run, result } => self.unwritten.push((run, result)),
                Command::Room | Command::Stop { .. } => {}
            }
        }
        self.store.begin()?;
        let now = self.store.now()?;
        let mut done = Done { now, ..Done::default() };
        let mut scheduled = Vec::new();
        for ((delay, payload), answer) in schedule.into_iter().zip(waiting.iter()) {
            // Who has left was told nothing, so nothing stands.
            scheduled.push(if answer.is_closed() { None } else { Some(self.schedule(now, delay, payload)?) });
        }
        for (id, answer) in cancel {
            done.cancelled.push((answer, self.store.cancel(id)?));
        }
        self.write_ends(&mut done)?;
        self.extend(&mut done)?;
        self.claim(&mut done)?;
        if now >= self.remove_at {
            self.store.remove_set_aside(now.saturating_sub(self.settings.keep.as_nanos() as u64))?;
            self.remove_at = now + SET_ASIDE_LOOK_TIME.as_nanos() as u64;
        }
        done.first_due = self.store.first_due()?;
        let counts = self.store.counts()?;
        self.store.commit()?;
        self.shown.note(&counts);
        let answered = std::mem::take(waiting).into_iter().zip(scheduled);
        done.scheduled = answered.filter_map(|(answer, result)| Some((answer, result?))).collect();
        Ok(done)
    }

    fn schedule(
        &mut self,
        now: UnixNanos,
        delay: Delay,
        payload: Box<[u8]>,
    ) -> Result<Result<TimerId, ScheduleError>> {
        // What this process calls a time is so long ago, or to come, on the store's clock.
        let here = clock::now();
        let at = |nanos: Nanos| now.saturating_add(nanos).saturating_sub(here);
        let (scheduled, due) = match delay {
            Delay::After(from, delay) => (at(from), at(from).saturating_add(delay)),
            Delay::At(due) => (now, at(due)),
        };
        self.store.schedule(&New { payload, scheduled, due }, &self.settings.limits)
    }

    fn write_ends(&mut self, done: &mut Done) -> Result<()> {
        for (run, result) in &self.unwritten {
            let next = match result {
                Ok(()) => Next::Gone,
                Err(error) => match self.settings.retry.delay(run.attempt) {
                    Some(delay) => {
                        Next::Again { due: done.now + delay.as_nanos() as u64, error: error.clone() }
                    }
                    None => Next::SetAside { at: done.now, error: error.clone() },
                },
            };
            if self.store.end(*run, &next)? {
                done.retried += u64::from(matches!(next, Next::Again { .. }));
            }
            done.ended.push(*run);
        }
        Ok(())
    }

    /// Before calls are claimed: so none of this server's own is, however long the store was away.
    fn extend(&mut self, done: &mut Done) -> Result<()> {
        if done.now < self.extend_at {
            return Ok(());
        }
        let until = done.now + self.settings.lease.as_nanos() as u64;
        for (&id, &attempt) in &self.claimed {
            let run = Run { id, attempt };
            if !done.ended.contains(&run) && !self.store.extend(run, until)? {
                done.lost.push(run);
            }
        }
        Ok(())
    }

    fn claim(&mut self, done: &mut Done) -> Result<()> {
        let room = self.settings.ready_max.saturating_sub(self.ready.pending() as usize);
        if room == 0 {
            return Ok(());
        }
        let here = clock::now();
        let due_max =
            self.ready.last_due().map_or(u64::MAX, |last| done.now.saturating_add(last).saturating_sub(here));
        done.claimed = self.store.claim(&Claim {
            now: done.now,
            due_max,
            calls_max: room,
            lease: self.settings.lease,
            attempts_max: self.settings.retry.attempts_max,
        })?;
        Ok(())
    }

    /// Tells those who wait, and lets start what was claimed.
    fn finish(&mut self, done: Done) -> Duration {
        self.unwritten.clear();
        let now = done.now;
        if now >= self.extend_at {
            self.extend_at = now + (self.settings.lease / 3).as_nanos() as u64;
        }
        for run in &done.lost {
            // One that has not started here runs elsewhere.
            self.ready.cancel(run.id);
        }
        for Run { id, attempt } in done.ended.into_iter().chain(done.lost) {
            if self.claimed.get(&id) == Some(&attempt) {
                self.claimed.remove(&id);
            }
        }
        self.shown.note_retried(done.retried);
        for (answer, result) in done.scheduled {
            let id = result.as_ref().ok().copied();
            if let (Err(_), Some(id)) = (answer.send(result), id) {
                // Nobody was told its number.
                self.forget(id);
            }
        }
        for (answer, cancelled) in done.cancelled {
            let _ = answer.send(cancelled);
        }
        let here = clock::now();
        let at = |unix: UnixNanos| here.saturating_add(unix).saturating_sub(now).max(1);
        for Claimed { id, payload, scheduled, due, attempt } in done.claimed {
            self.claimed.insert(id, attempt);
            let (scheduled, due) = (at(scheduled), at(due).min(here));
            self.ready.add(Stored { id, payload, scheduled, due, attempt });
        }
        let first = done.first_due.map(at);
        self.shown.note_first_due(first);
        let mut wait = LOOK_TIME;
        if !self.claimed.is_empty() {
            wait = wait.min(Duration::from_nanos(self.extend_at.saturating_sub(now)));
        }
        if let Some(first) = first.filter(|first| self.ready.last_due().is_none_or(|last| *first <= last))
            && !self.is_full()
        {
            wait = wait.min(Duration::from_nanos(first.saturating_sub(here)));
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

    /// One that was written for somebody who left in this moment.
    fn forget(&mut self, id: TimerId) {
        let mut forget = || -> Result<()> {
            self.store.begin()?;
            self.store.cancel(id)?;
            self.store.commit()
        };
        if forget().is_err() {
            self.store.close();
        }
    }

    /// What is written when the server stops: others may have what it has not ended. Gives how many calls
    /// the store has then.
    fn stop(&mut self) -> u64 {
        self.ready.take_all();
        let mut release = || -> Result<u64> {
            self.store.begin()?;
            for (&id, &attempt) in &self.claimed {
                self.store.end(Run { id, attempt }, &Next::Released)?;
            }
            let counts = self.store.counts()?;
            self.store.commit()?;
            Ok(counts.pending)
        };
        match release() {
            Ok(pending) => pending,
            Err(error) => {
                (self.tell)(&format!(
                    "the store of deferred calls cannot be used: {error:#}; {} calls run when their leases have ended",
                    self.claimed.len()
                ));
                self.shown.pending()
            }
        }
    }
}
