//! Swapping the guest while it serves, without dropping a request. The new one is
//! loaded in a thread that serves nobody, then each worker takes its new program:
//! calls that begin from then on run in it, calls under way end where they began,
//! and what the old guest has left on idle cores is dropped.
//!
//! No call is without a program that can run it. A guest without a callback is
//! refused while deferred calls are pending; the last one with a callback stays
//! loaded behind it, since its requests under way may still schedule calls.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tokio::sync::watch;

use super::service_manager::{ServiceManager, State};
use crate::deferred::Deferred;
use crate::dispatch::Dispatch;
use crate::named_values::NamedValues;
use crate::program::Program;
use crate::program::instance::Instance;
use crate::program::loader::Loader;
use crate::request::current::Current;
use crate::sandbox::epoch::Epoch;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

/// Old guests that may still have calls under way. A swap waits for them, so that swaps
/// in a row do not fill the memory.
const OLD_MAX: usize = 8;
/// How often idle cores are looked at, as long as something old is left.
const SWEEP: Duration = Duration::from_secs(1);

/// Asks for swaps.
pub(super) struct Swaps(SyncSender<()>);

impl Swaps {
    /// The guest's file has changed. If a swap is under way, which may have read the
    /// file before, one more comes after it.
    pub(super) fn ask(&self) {
        // Full: the swap that waits there will see this change too.
        let _ = self.0.try_send(());
    }
}

/// Whoever swaps.
pub(super) struct Swapper {
    pub(super) loader: Loader,
    /// In the order of the workers.
    pub(super) current: Vec<Arc<Current>>,
    pub(super) epoch: Epoch,
    pub(super) dispatch: Arc<Dispatch<Instance>>,
    pub(super) deferred: Arc<Deferred>,
    pub(super) named_values: Arc<NamedValues>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) service_manager: Arc<ServiceManager>,
    pub(super) log: Log,
    pub(super) stats: Arc<Stats>,
}

impl Swapper {
    /// Starts the thread, which ends when nobody can ask any more.
    pub(super) fn start(self) -> std::io::Result<Swaps> {
        let (ask, asked) = sync_channel(1);
        let swapping = Swapping { generation: 0, old: Vec::new(), swapper: self };
        std::thread::Builder::new().name("swap".into()).spawn(move || swapping.run(&asked))?;
        Ok(Swaps(ask))
    }
}

struct Swapping {
    swapper: Swapper,
    /// Of the guest that is served, from 0.
    generation: u64,
    /// Programs that were replaced and may still be in use, with their generations.
    old: Vec<(u64, Weak<Program>)>,
}

impl Swapping {
    fn run(mut self, asked: &Receiver<()>) {
        loop {
            let asked = match self.old.is_empty() {
                true => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => asked.recv_timeout(SWEEP),
            };
            match asked {
                Ok(()) => {
                    self.swapper.service_manager.tell(State::Swaps);
                    self.swap();
                    self.swapper.service_manager.tell(State::Serves);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.sweep();
        }
    }

    fn swap(&mut self) {
        self.wait_for_old();
        let start = Instant::now();
        // Without this thread no later guest would be swapped in.
        let swapped = catch_unwind(AssertUnwindSafe(|| self.try_swap()))
            .unwrap_or_else(|_| Err(anyhow!("loading it panicked")));
        let Swapper { log, stats, .. } = &self.swapper;
        match swapped {
            Ok(()) => {
                stats.swaps_done.inc();
                let milliseconds = start.elapsed().as_secs_f64() * 1e3;
                log.server(format_args!("swapped the guest, in {milliseconds:.1} ms"));
            }
            Err(error) => {
                stats.swaps_refused.inc();
                log.server(format_args!("did not swap the guest, the old one stays: {error:#}"));
            }
        }
    }

    fn wait_for_old(&mut self) {
        if self.old_guests() >= OLD_MAX {
            let log = &self.swapper.log;
            log.server(format_args!("the swap waits: {OLD_MAX} earlier guests have calls under way"));
        }
        while self.old_guests() >= OLD_MAX {
            std::thread::sleep(SWEEP);
            self.sweep();
        }
    }

    fn old_guests(&self) -> usize {
        self.old.iter().map(|(generation, _)| generation).collect::<BTreeSet<_>>().len()
    }

    fn try_swap(&mut self) -> Result<()> {
        let Swapper { loader, current, epoch, dispatch, deferred, named_values, stopping, .. } =
            &self.swapper;
        let values = named_values.read_again()?;
        let hosts = current.iter().map(|current| current.host()).collect();
        let guest = loader.compile()?;
        if guest.is_short_of_addresses() {
            // What idle cores keep would go after the swap.
            drop(dispatch.take_kept(|_| true));
        }
        let programs = loader.link(&guest, self.generation + 1, hosts)?;
        // A call that is scheduled after this look runs in the old guest.
        let pending = deferred.pending();
        ensure!(
            pending == 0 || programs.iter().all(|program| program.runs_deferred_calls),
            "the new one has no callback, and {pending} deferred calls are pending"
        );
        ensure!(!*stopping.borrow(), "the server stops");
        programs.iter().for_each(|program| epoch.drive(&program.engine));
        self.generation += 1;
        // Before any instance of the new guest looks at them.
        named_values.set(values);
        let runs_deferred_calls = programs.iter().all(|program| program.runs_deferred_calls);
        let replaced = hand_over(current, programs);
        if runs_deferred_calls {
            deferred.begin();
        }
        for program in &replaced {
            let (generation, program) = (program.generation, Arc::downgrade(program));
            if !self.old.iter().any(|(_, old)| old.ptr_eq(&program)) {
                self.old.push((generation, program));
            }
        }
        Ok(())
    }

    /// Drops the instances that older guests have left on idle cores. A core that is
    /// busy meanwhile is looked at the next time, or by the call that takes it.
    fn sweep(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let current = self.swapper.current.iter().flat_map(|current| current.generations());
        let current: Vec<u64> = current.collect();
        let is_old = |generation| !current.contains(&generation);
        drop(self.swapper.dispatch.take_kept(|instance| is_old(instance.generation())));
        // One that is behind a guest without a callback is not replaced yet.
        self.old.retain(|(generation, program)| is_old(*generation) && program.strong_count() > 0);
    }
}

/// Gives each worker its program, and to the caller what was there before. Deferred
/// calls come first, for all workers: one that the new guest schedules may run on any
/// of them.
fn hand_over(workers: &[Arc<Current>], programs: Vec<Program>) -> Vec<Arc<Program>> {
    let programs: Vec<Arc<Program>> = programs.into_iter().map(Arc::new).collect();
    let mut replaced = Vec::new();
    for (current, program) in workers.iter().zip(&programs) {
        if program.runs_deferred_calls {
            replaced.extend(current.take_for_deferred(program.clone()));
        }
    }
    for (current, program) in workers.iter().zip(programs) {
        replaced.push(current.take_for_requests(program));
    }
    replaced
}
