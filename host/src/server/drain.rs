//! The order in which a server stops: no new connections, then the requests whose head
//! was read, then the deferred calls that come due within the grace period. What is left
//! is counted and named.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::clock;
use crate::config::Settings;
use crate::deferred::Deferred;
use crate::dispatch::Dispatch;
use crate::program::instance::Instance;
use crate::sandbox::host::Shared;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

/// Ids of dropped calls that are named in the log.
const IDS_NAMED_MAX: usize = 1000;

/// What is waited for when a server stops.
pub(super) struct Drain {
    stopping: watch::Sender<bool>,
    /// Closed when nobody accepts any more.
    accepting: watch::Sender<()>,
    connection_places: Arc<Semaphore>,
    connections_max: u32,
    /// See `Settings::request_time_max`.
    request_time_max: Duration,
    /// For one run of a deferred call.
    deferred_time_max: Duration,
    dispatch: Arc<Dispatch<Instance>>,
    deferred: Arc<Deferred>,
    log: Log,
    stats: Arc<Stats>,
}

impl Drain {
    /// `accepting` is closed when nobody accepts any more.
    pub(super) fn new(
        settings: &Settings,
        shared: &Shared,
        dispatch: Arc<Dispatch<Instance>>,
        connection_places: Arc<Semaphore>,
        stopping: watch::Sender<bool>,
        accepting: watch::Sender<()>,
    ) -> Drain {
        let Shared { log, stats, deferred, .. } = shared;
        Drain {
            stopping,
            accepting,
            connection_places,
            connections_max: settings.connections(),
            request_time_max: settings.request_time_max(),
            deferred_time_max: settings.callback_limits().time_max,
            dispatch,
            deferred: deferred.clone(),
            log: log.clone(),
            stats: stats.clone(),
        }
    }

    /// Ends when the work in hand is done: requests have their deadlines, and
    /// deferred calls those that are due in time and theirs.
    pub(super) async fn run(&self, grace: Duration) {
        let asked = Instant::now();
        self.deferred.close_after(clock::after(grace));
        self.stopping.send_replace(true);
        let pending = self.deferred.pending();
        let work = self.work();
        self.log.server(format_args!("stopping: {work}, {pending} deferred calls pending; those due in the next {} s will run, another signal stops at once", grace.as_secs_f64()));
        self.connections_closed().await;
        self.deferred_ended(asked, grace).await;
        self.leave_or_drop().await;
    }

    /// Waits for the deferred calls, but not for all that came due in time if they schedule
    /// ever more of them: what is under way ends, and the rest is dropped.
    async fn deferred_ended(&self, asked: Instant, grace: Duration) {
        let end = asked + grace + self.deferred_time_max;
        if tokio::time::timeout_at(end.max(Instant::now()), self.deferred_done()).await.is_ok() {
            return;
        }
        self.deferred.close_after(0);
        let seconds = asked.elapsed().as_secs_f64();
        self.log.server(format_args!("more deferred calls came due than could run in {seconds:.1} s"));
        let _ = tokio::time::timeout(self.deferred_time_max, self.dispatch.idle()).await;
    }

    /// Ends the work in hand.
    pub(super) async fn cut_short(&self) {
        self.deferred.close_after(0);
        self.log.server(format_args!("stopped at once by a second signal: {} cut off", self.work()));
        self.leave_or_drop().await;
    }

    fn work(&self) -> String {
        format!("{} calls under way, {} requests waiting", self.dispatch.busy(), self.dispatch.waiting())
    }

    /// A client can hold a connection for longer than its request may take, for
    /// example by never taking what HTTP/2 has buffered for it.
    async fn connections_closed(&self) {
        let all = self.connections_max;
        let all_places = async {
            self.accepting.closed().await;
            self.connection_places.acquire_many(all).await
        };
        if tokio::time::timeout(self.request_time_max, all_places).await.is_err() {
            let open = all as usize - self.connection_places.available_permits();
            self.log.server(format_args!("{open} connections whose clients took too long are cut off"));
        }
    }

    /// A running call may schedule another one: so what is due is looked at once
    /// more when no call is under way.
    async fn deferred_done(&self) {
        loop {
            self.dispatch.idle().await;
            if !self.deferred.settle().await {
                return;
            }
            match self.deferred.first_due() {
                Some(due) => {
                    // One that is due already waits for its worker only.
                    let due = clock::instant(due).max(tokio::time::Instant::now());
                    tokio::time::sleep_until(due + Duration::from_millis(1)).await;
                }
                None if self.dispatch.busy() == 0 && self.deferred.first_due().is_none() => return,
                None => {}
            }
        }
    }

    /// What has not run stays in the store, or is named.
    async fn leave_or_drop(&self) {
        if self.deferred.store().is_none() {
            return self.name_dropped();
        }
        match self.deferred.stop().await {
            Some(0) => {}
            Some(pending) => self.log.server(format_args!("{pending} deferred calls stay in their store")),
            None => self.log.server("deferred calls stay in their store, which does not say how many"),
        }
    }

    fn name_dropped(&self) {
        let dropped = self.deferred.pending();
        if dropped == 0 {
            return;
        }
        self.stats.deferred_dropped.inc_by(dropped);
        let ids: Vec<String> = self.deferred.ids(IDS_NAMED_MAX).iter().map(u64::to_string).collect();
        let more = if dropped as usize > ids.len() { " and more" } else { "" };
        self.log.server(format_args!("dropped {dropped} pending deferred calls: {}{more}", ids.join(" ")));
    }
}
