//! The figures on `--stats`: for Prometheus, as JSON, and whether the server is
//! well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::clock;
use crate::config::Settings;
use crate::connection::client::ClientAddress;
use crate::connection::listen::{Bound, Listener};
use crate::connection::{self, answer};
use crate::deferred::{Deferred, Shown};
use crate::dispatch::Dispatch;
use crate::memory::budget::Budget;
use crate::program::instance::Instance;
use crate::sandbox::host::Shared;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

/// Connections of `--stats` that are open at once. When one more comes, the one that has
/// asked for nothing for the longest time is closed: so connections that stay open and
/// ask nothing keep nobody from an answer.
const CONNECTIONS_MAX: usize = 64;

/// An open connection.
struct Open {
    task: AbortHandle,
    /// When it began, or last asked for something.
    asked_at: Arc<AtomicU64>,
}

/// What the figures of `--stats` are taken from when someone asks.
struct Figures {
    stats: Arc<Stats>,
    dispatch: Arc<Dispatch<Instance>>,
    deferred: Arc<Deferred>,
    budget: Budget,
    cores: u32,
    log: Log,
    stopping: watch::Receiver<bool>,
}

/// Shows the figures in this thread's runtime.
pub(super) fn start(
    settings: &Settings,
    shared: &Shared,
    dispatch: &Arc<Dispatch<Instance>>,
    bound: Bound,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let figures = Figures {
        stats: shared.stats.clone(),
        dispatch: dispatch.clone(),
        deferred: shared.deferred.clone(),
        budget: shared.budget.clone(),
        cores: settings.cores(),
        log: shared.log.clone(),
        stopping,
    };
    let listener = bound.listener().context("--stats")?;
    tokio::spawn(serve(listener, Arc::new(figures), settings.connection_limits()));
    Ok(())
}

/// Shows the figures, also while the server stops.
async fn serve(listener: Listener, figures: Arc<Figures>, limits: connection::Limits) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (_never, stopping) = watch::channel(false);
    let mut open: Vec<Open> = Vec::new();
    loop {
        let accepted = listener.accept(&figures.log).await;
        open.retain(|connection| !connection.task.is_finished());
        if places.available_permits() == 0 {
            close_idlest(&open);
        }
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let address = ClientAddress::new(accepted.address, &[]);
        let figures = figures.clone();
        let asked_at = Arc::new(AtomicU64::new(clock::now()));
        let asked = asked_at.clone();
        let respond = move |request: Request<Incoming>, _| {
            asked.store(clock::now(), Relaxed);
            let response = figures.show(request.uri().path());
            std::future::ready(response)
        };
        let connection = connection::serve(accepted.stream, address, limits, stopping.clone(), respond);
        let task = tokio::spawn(async move {
            connection.await;
            drop(place);
        });
        open.push(Open { task: task.abort_handle(), asked_at });
    }
}

/// Closes one connection, soon: its task is dropped when its turn comes.
fn close_idlest(open: &[Open]) {
    if let Some(idlest) = open.iter().min_by_key(|connection| connection.asked_at.load(Relaxed)) {
        idlest.task.abort();
    }
}

impl Figures {
    fn show(&self, path: &str) -> Response<Full<Bytes>> {
        let is_stopping = *self.stopping.borrow();
        let (status, kind, text) = match path {
            "/metrics" => {
                self.look();
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                (StatusCode::OK, kind, self.stats.prometheus())
            }
            "/stats" => {
                self.look();
                (StatusCode::OK, "application/json", format!("{:#}\n", self.stats.json()))
            }
            "/healthz" if is_stopping => {
                (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "stopping\n".to_owned())
            }
            "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            _ => {
                (StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /stats and /healthz\n".to_owned())
            }
        };
        answer::text(status, kind, text)
    }

    /// Sets those that nobody counts.
    fn look(&self) {
        let (stats, log, store) = (&self.stats, &self.log, self.deferred.store());
        let rows = [
            (&stats.cores, u64::from(self.cores)),
            (&stats.cores_busy, self.dispatch.busy().into()),
            (&stats.queue, self.dispatch.waiting() as u64),
            (&stats.deferred_pending, self.deferred.pending()),
            (&stats.deferred_retried, store.map_or(0, Shown::retried)),
            (&stats.deferred_set_aside, store.map_or(0, Shown::set_aside)),
            (&stats.log_lines_dropped, log.lines_dropped()),
            (&stats.guest_lines_dropped, log.guest_lines_dropped()),
            (&stats.guest_bytes_dropped, log.guest_bytes_dropped()),
            (&stats.memory_total_bytes, self.budget.bytes()),
            (&stats.memory_bytes, self.budget.bytes_shared()),
        ];
        for (figure, now) in rows {
            figure.set(now as i64);
        }
    }
}
