//! Running a deferred call on the core that `dispatch` chose for it.

use std::sync::Arc;
use std::time::Duration;

use super::service::Service;
use crate::clock::{self, Nanos};
use crate::deferred::{Call, Deferred, TimerId};
use crate::dispatch::CoreGuard;
use crate::program::Program;
use crate::program::instance::{Instance, Place};
use crate::program::reuse;
use crate::sandbox::deadline::Deadline;
use crate::statuses::Failure;
use crate::telemetry::stats::Stats;

/// How deferred calls are run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From taking a core.
    pub time_max: Duration,
    /// A line in the log for each.
    pub lines: bool,
}

/// What the log says about one run.
struct Run {
    id: TimerId,
    scheduled: Nanos,
    due: Nanos,
    started: Nanos,
    attempt: u32,
    core: u32,
}

/// Runs a deferred call.
pub(crate) async fn run(service: Arc<Service>, limits: Limits, mut core: CoreGuard<Instance>, call: Call) {
    let Call { id, scheduled, due, started, attempt, .. } = call;
    let run = Run { id, scheduled, due, started, attempt, core: core.number() };
    let stats = service.book.stats().clone();
    stats.deferred_lateness_seconds.observe(Duration::from_nanos(run.started.saturating_sub(due)));
    let running = Running::begin(stats.clone());
    let unended = Unended { deferred: Some(service.deferred.clone()), id, run: call.run, attempt };
    let program = service.current.for_deferred();
    let result = match reuse::place(&mut core, &program, &service.dispatch, limits.time_max).await {
        Ok(place) => run_in(limits, &mut core, program, place, call).await,
        Err(failure) => Err(failure),
    };
    drop(running);
    match &result {
        Ok(()) => stats.deferred_done.inc(),
        Err(_) => stats.deferred_failed.inc(),
    };
    unended.end(result.as_ref().copied().map_err(ToString::to_string));
    if let Err(failure) = &result {
        service.book.report(failure, &format_args!("deferred call {id}"), Some(run.core));
    }
    if limits.lines {
        service.book.log().line(run.line(result.is_ok()).as_bytes());
    }
}

/// Its time begins when there is room for it.
async fn run_in(
    limits: Limits,
    core: &mut CoreGuard<Instance>,
    program: Arc<Program>,
    place: Place,
    call: Call,
) -> Result<(), Failure> {
    let until = clock::after(limits.time_max);
    let callback = program.run_callback(place, Deadline::at(until), call);
    let Ok(ended) = tokio::time::timeout_at(clock::instant(until), callback).await else {
        return Err(Failure::Deadline);
    };
    // An error that the callback returned is its result; the instance is as good as before.
    if matches!(ended.result, Ok(()) | Err(Failure::CallbackError(_))) {
        reuse::keep(core, ended.instance);
    }
    ended.result
}

/// A run of which the store does not know the end.
struct Unended {
    /// None once it has ended.
    deferred: Option<Arc<Deferred>>,
    id: TimerId,
    run: u64,
    attempt: u32,
}

impl Unended {
    fn end(mut self, result: Result<(), String>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<(), String>) {
        if let Some(deferred) = self.deferred.take() {
            deferred.ended(self.id, self.run, self.attempt, result);
        }
    }
}

impl Drop for Unended {
    /// Something here has panicked: that is a run that has failed, or else the call would stay with this
    /// server for ever.
    fn drop(&mut self) {
        self.tell(Err("the server failed while it ran".to_owned()));
    }
}

/// Counts a call as running, whatever becomes of it.
struct Running(Arc<Stats>);

impl Running {
    fn begin(stats: Arc<Stats>) -> Running {
        stats.deferred_running.inc();
        Running(stats)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.deferred_running.dec();
    }
}

impl Run {
    /// Points in time are nanoseconds since the Unix epoch; how long the call
    /// waited is by the monotonic clock, which decides.
    fn line(&self, is_done: bool) -> String {
        format!(
            "deferred id={} scheduled={} due={} started={} waited_ns={} lateness_ns={} took_ns={} attempt={} core={} outcome={}\n",
            self.id,
            self.scheduled,
            self.due,
            self.started,
            self.started.saturating_sub(self.scheduled),
            self.started.saturating_sub(self.due),
            clock::now().saturating_sub(self.started),
            self.attempt,
            self.core,
            if is_done { "done" } else { "failed" },
        )
    }
}
