//! The figures of a server: counted where things happen, shown on `--stats` as
//! Prometheus text and as JSON. What a request counts is kept in shards, so that
//! two threads do not write to the same place.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{self, Atomic};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// Upper bounds, in seconds, of the buckets of every histogram of times.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The label of `wasm_serve_requests_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    class: &'static str,
}

/// The label of `wasm_serve_failures_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// A counter whose threads do not disturb each other.
pub type Counter = counter::Counter<u64, Sharded<AtomicU64>>;

/// Threads beyond this number share their places.
const SHARDS: usize = 32;

/// A place for each thread, on cache lines of its own (two, which the processor
/// fetches together).
#[derive(Debug, Default)]
pub struct Sharded<T>([Shard<T>; SHARDS]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard<T>(T);

impl<T> Sharded<T> {
    fn mine(&self) -> &T {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: usize = THREADS.fetch_add(1, Relaxed) % SHARDS);
        &self.0[MINE.with(|mine| *mine)].0
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}

impl Atomic<u64> for Sharded<AtomicU64> {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// Gives what this thread's place held before; nobody asks for it.
    fn inc_by(&self, more: u64) -> u64 {
        self.mine().fetch_add(more, Relaxed)
    }

    fn get(&self) -> u64 {
        self.all().map(|count| count.load(Relaxed)).sum()
    }
}

/// All figures. What a count means stands beside its name in `registry`.
#[derive(Default)]
pub struct Stats {
    /// Every reason for which a request fails.
    reasons: &'static [&'static str],
    requests: Family<Status, Counter>,
    /// The members of `requests` in the order of `CLASSES`, so that counting a
    /// request looks nothing up.
    requests_by_class: [Counter; 5],
    failures: Family<Reason, Counter>,
    pub cancelled: Counter,
    pub broken: Counter,
    pub request_seconds: Histogram,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub connections: Gauge,
    pub instances_created: Counter,
    pub deferred_scheduled: Counter,
    pub deferred_refused: Counter,
    pub deferred_running: Gauge,
    pub deferred_done: Counter,
    pub deferred_failed: Counter,
    pub deferred_cancelled: Counter,
    pub deferred_dropped: Counter,
    pub deferred_lateness_seconds: Histogram,
    pub tails_stopped: Counter,
    pub swaps_done: Counter,
    pub swaps_refused: Counter,
    levels: Levels,
    shown: Mutex<Option<Arc<Registry>>>,
}

/// Figures that are looked up when someone asks.
#[derive(Default)]
struct Levels {
    cores: Gauge,
    cores_busy: Gauge,
    queue: Gauge,
    deferred_pending: Gauge,
    log_lines_dropped: Gauge,
    guest_lines_dropped: Gauge,
    guest_bytes_dropped: Gauge,
    memory_total_bytes: Gauge,
    memory_bytes: Gauge,
}

/// What `Levels` are set to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub cores: u64,
    pub cores_busy: u64,
    pub queue: u64,
    pub deferred_pending: u64,
    pub log_lines_dropped: u64,
    pub guest_lines_dropped: u64,
    pub guest_bytes_dropped: u64,
    /// What all instances may take, and take.
    pub memory_total_bytes: u64,
    pub memory_bytes: u64,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Stats {
    /// `reasons` are all that `count_failure` is told.
    pub fn new(reasons: &'static [&'static str]) -> Stats {
        let requests = Family::<Status, Counter>::default();
        let requests_by_class = CLASSES.map(|class| requests.get_or_create_owned(&Status { class }));
        Stats { reasons, requests, requests_by_class, ..Stats::default() }
    }

    /// Counts an answered request.
    pub fn count_request(&self, status: http::StatusCode, time: Duration) {
        let class = (status.as_u16() / 100).clamp(1, 5) - 1;
        self.requests_by_class[class as usize].inc();
        self.request_seconds.observe(time);
    }

    /// Counts a failure, under the name that `error` gives it.
    pub fn count_failure(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }

    /// The figures as Prometheus text (OpenMetrics 1.0).
    pub fn prometheus(&self, now: Now) -> String {
        self.set(now);
        let registry = self.shown.lock().get_or_insert_with(|| Arc::new(self.registry())).clone();
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a String takes all that is written");
        text
    }

    /// The figures as JSON.
    pub fn json(&self, now: Now) -> Value {
        let failures: serde_json::Map<String, Value> = self
            .reasons
            .iter()
            .map(|reason| {
                (reason.to_string(), json!(self.failures.get(&Reason { reason }).map_or(0, |c| c.get())))
            })
            .collect();
        let requests: serde_json::Map<String, Value> = CLASSES
            .iter()
            .zip(&self.requests_by_class)
            .map(|(class, count)| (class.to_string(), json!(count.get())))
            .collect();
        json!({
            "cores": { "all": now.cores, "busy": now.cores_busy, "queue": now.queue },
            "connections": { "open": self.connections.get(), "accepted": self.connections_accepted.get(), "refused": self.connections_refused.get() },
            "requests": {
                "answered": requests,
                "cancelled": self.cancelled.get(),
                "broken": self.broken.get(),
                "failures": failures,
                "seconds": self.request_seconds.json(),
            },
            "memory_bytes": { "total": now.memory_total_bytes, "taken": now.memory_bytes },
            "instances_created": self.instances_created.get(),
            "tails_stopped": self.tails_stopped.get(),
            "swaps": { "done": self.swaps_done.get(), "refused": self.swaps_refused.get() },
            "deferred": {
                "scheduled": self.deferred_scheduled.get(),
                "refused": self.deferred_refused.get(),
                "pending": now.deferred_pending,
                "running": self.deferred_running.get(),
                "done": self.deferred_done.get(),
                "failed": self.deferred_failed.get(),
                "cancelled": self.deferred_cancelled.get(),
                "dropped": self.deferred_dropped.get(),
                "lateness_seconds": self.deferred_lateness_seconds.json(),
            },
            "log_lines_dropped": now.log_lines_dropped,
            "guest_output_dropped": { "lines": now.guest_lines_dropped, "bytes": now.guest_bytes_dropped },
        })
    }

    fn set(&self, now: Now) {
        let rows = [
            (&self.levels.cores, now.cores),
            (&self.levels.cores_busy, now.cores_busy),
            (&self.levels.queue, now.queue),
            (&self.levels.deferred_pending, now.deferred_pending),
            (&self.levels.log_lines_dropped, now.log_lines_dropped),
            (&self.levels.guest_lines_dropped, now.guest_lines_dropped),
            (&self.levels.guest_bytes_dropped, now.guest_bytes_dropped),
            (&self.levels.memory_total_bytes, now.memory_total_bytes),
            (&self.levels.memory_bytes, now.memory_bytes),
        ];
        for (gauge, value) in rows {
            gauge.set(value as i64);
        }
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("wasm_serve");
        let r = &mut registry;
        r.register("requests", "Requests answered, by class of status", self.requests.clone());
        r.register(
            "failures",
            "Requests and deferred calls without a result of the guest's own",
            self.failures.clone(),
        );
        r.register("broken", "Requests whose guest did not give the whole response", self.broken.clone());
        r.register(
            "cancelled",
            "Requests whose client left before the response was complete",
            self.cancelled.clone(),
        );
        r.register(
            "request_seconds",
            "From the request's head to the response's end",
            self.request_seconds.clone(),
        );
        r.register("connections_accepted", "Connections accepted", self.connections_accepted.clone());
        r.register(
            "connections_refused",
            "Connections beyond --connections-per-client",
            self.connections_refused.clone(),
        );
        r.register("connections", "Connections open", self.connections.clone());
        r.register("cores", "Cores", self.levels.cores.clone());
        r.register("cores_busy", "Cores that a guest call holds", self.levels.cores_busy.clone());
        r.register("queue", "Requests that wait for a core", self.levels.queue.clone());
        r.register(
            "memory_total_bytes",
            "Memory that all instances may take (--memory-total)",
            self.levels.memory_total_bytes.clone(),
        );
        r.register(
            "memory_bytes",
            "Memory that all instances take, with what the server holds for them",
            self.levels.memory_bytes.clone(),
        );
        r.register("instances_created", "Instances made", self.instances_created.clone());
        r.register(
            "tails_stopped",
            "Tails that trapped or were stopped at their deadline",
            self.tails_stopped.clone(),
        );
        r.register("swaps_done", "Times that the guest was swapped", self.swaps_done.clone());
        r.register("swaps_refused", "Swaps of the guest that were refused", self.swaps_refused.clone());
        r.register("deferred_scheduled", "Deferred calls accepted", self.deferred_scheduled.clone());
        r.register("deferred_refused", "Deferred calls refused at a limit", self.deferred_refused.clone());
        r.register(
            "deferred_pending",
            "Deferred calls not yet started",
            self.levels.deferred_pending.clone(),
        );
        r.register("deferred_running", "Deferred calls under way", self.deferred_running.clone());
        r.register("deferred_done", "Deferred calls that ended well", self.deferred_done.clone());
        r.register("deferred_failed", "Deferred calls that ended badly", self.deferred_failed.clone());
        r.register("deferred_cancelled", "Deferred calls cancelled", self.deferred_cancelled.clone());
        r.register(
            "deferred_dropped",
            "Deferred calls left pending at the stop",
            self.deferred_dropped.clone(),
        );
        r.register(
            "deferred_lateness_seconds",
            "From the due time of a deferred call to its start",
            self.deferred_lateness_seconds.clone(),
        );
        r.register(
            "log_lines_dropped",
            "Log lines that found no room",
            self.levels.log_lines_dropped.clone(),
        );
        r.register(
            "guest_lines_dropped",
            "Lines of guests beyond --log-rate and --log-burst",
            self.levels.guest_lines_dropped.clone(),
        );
        r.register("guest_bytes_dropped", "Bytes of these lines", self.levels.guest_bytes_dropped.clone());
        registry
    }
}

/// Counts of durations by size. Observing takes no lock.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Sharded<Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    /// One for each bound of `SECONDS`, and one above all.
    counts: [AtomicU64; SECONDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = SECONDS.partition_point(|bound| *bound < seconds);
        let buckets = self.0.mine();
        buckets.counts[bucket].fetch_add(1, Relaxed);
        buckets.nanos.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
        let count = |at: usize| self.0.all().map(|buckets| buckets.counts[at].load(Relaxed)).sum();
        bounds.enumerate().map(|(at, bound)| (bound, count(at))).collect()
    }

    fn sum_seconds(&self) -> f64 {
        self.0.all().map(|buckets| buckets.nanos.load(Relaxed)).sum::<u64>() as f64 / 1e9
    }

    fn json(&self) -> Value {
        let buckets = self.buckets();
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        let buckets: Vec<Value> = buckets
            .iter()
            .map(|(bound, count)| json!({ "le": if *bound == f64::INFINITY { Value::Null } else { json!(bound) }, "count": count }))
            .collect();
        json!({ "count": count, "sum": self.sum_seconds(), "buckets": buckets })
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let buckets = self.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum_seconds(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_show_the_same_figures() {
        let stats = Stats::new(&["trap"]);
        stats.count_request(http::StatusCode::OK, Duration::from_millis(3));
        stats.count_failure("trap");
        stats.deferred_lateness_seconds.observe(Duration::from_secs(60));
        let now = Now { cores: 4, deferred_pending: 7, ..Now::default() };
        let text = stats.prometheus(now);
        for line in [
            "wasm_serve_requests_total{class=\"2xx\"} 1",
            "wasm_serve_failures_total{reason=\"trap\"} 1",
            "wasm_serve_request_seconds_bucket{le=\"0.005\"} 1",
            "wasm_serve_deferred_lateness_seconds_bucket{le=\"10.0\"} 0",
            "wasm_serve_deferred_lateness_seconds_bucket{le=\"+Inf\"} 1",
            "wasm_serve_deferred_pending 7",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
        let json = stats.json(now);
        assert_eq!(json["requests"]["answered"]["2xx"], 1);
        assert_eq!(json["requests"]["failures"]["trap"], 1);
        assert_eq!(json["deferred"]["pending"], 7);
        assert_eq!(json["deferred"]["lateness_seconds"]["count"], 1);
    }
}
