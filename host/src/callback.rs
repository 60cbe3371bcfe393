//! Running a deferred call on the core that `dispatch` chose for it.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Nanos};
use crate::cores::CoreGuard;
use crate::deadline::Deadline;
use crate::deferred::{Call, TimerId};
use crate::error::Failure;
use crate::instance::{Ended, Instance};
use crate::request::Service;
use crate::stats::Stats;

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
pub async fn run(service: Arc<Service>, limits: Limits, mut core: CoreGuard<Instance>, call: Call) {
    let Call { id, scheduled, due, started, attempt, .. } = call;
    let run = Run { id, scheduled, due, started, attempt, core: core.number() };
    let stats = service.book.stats.clone();
    stats.deferred_lateness_seconds.observe(Duration::from_nanos(run.started.saturating_sub(due)));
    let running = Running::begin(stats.clone());
    let until = clock::after(limits.time_max);
    let program = service.current.for_deferred();
    let callback = async {
        let place = service.place(&mut core, &program, limits.time_max).await;
        match place {
            Ok(place) => program.clone().run_callback(place, Deadline::at(until), call).await,
            Err(failure) => Ended { instance: None, result: Err(failure) },
        }
    };
    let result = match tokio::time::timeout_at(clock::instant(until), callback).await {
        Ok(ended) => {
            // An error that the callback returned is its result; the instance is
            // as good as before.
            if matches!(ended.result, Ok(()) | Err(Failure::CallbackError(_))) {
                service.keep(&mut core, ended.instance);
            }
            ended.result
        }
        Err(_) => Err(Failure::Deadline),
    };
    drop(running);
    match &result {
        Ok(()) => stats.deferred_done.inc(),
        Err(_) => stats.deferred_failed.inc(),
    };
    if let Err(failure) = &result {
        service.report(failure, &format_args!("deferred call {id}"), Some(run.core));
    }
    if limits.lines {
        service.book.log.line(run.line(result.is_ok()).as_bytes());
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
        let unix = clock::unix_nanos;
        format!(
            "deferred id={} scheduled={} due={} started={} waited_ns={} lateness_ns={} took_ns={} attempt={} core={} outcome={}\n",
            self.id,
            unix(self.scheduled),
            unix(self.due),
            unix(self.started),
            self.started - self.scheduled,
            self.started.saturating_sub(self.due),
            clock::now().saturating_sub(self.started),
            self.attempt,
            self.core,
            if is_done { "done" } else { "failed" },
        )
    }
}
