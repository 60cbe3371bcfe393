//! What one figure is made of: counts that threads keep without disturbing each other, and how
//! each kind of figure is shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::{self, Atomic};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Metric;
use serde_json::{Map, Value, json};

/// Upper bounds, in seconds, of the buckets of every histogram of times.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A figure in both forms.
pub(super) trait Figure {
    /// What Prometheus is shown.
    type Shown: Metric;

    fn shown(&self) -> Self::Shown;

    fn json(&self) -> Value;
}

/// A counter whose threads do not disturb each other.
pub(super) type Counter = counter::Counter<u64, Sharded<AtomicU64>>;

impl Figure for Counter {
    type Shown = Counter;

    fn shown(&self) -> Counter {
        self.clone()
    }

    fn json(&self) -> Value {
        self.get().into()
    }
}

/// Of what is so rare that threads may meet.
impl Figure for counter::Counter {
    type Shown = counter::Counter;

    fn shown(&self) -> counter::Counter {
        self.clone()
    }

    fn json(&self) -> Value {
        self.get().into()
    }
}

impl Figure for Gauge {
    type Shown = Gauge;

    fn shown(&self) -> Gauge {
        self.clone()
    }

    fn json(&self) -> Value {
        self.get().into()
    }
}

/// Threads beyond this number share their places.
const SHARDS: usize = 32;

/// A place for each thread, on cache lines of its own (two, which the processor
/// fetches together).
#[derive(Debug, Default)]
pub(crate) struct Sharded<T>([Shard<T>; SHARDS]);

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

/// The label of a request's class.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Status {
    class: &'static str,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests by the class of their status.
pub(crate) struct Classes {
    family: Family<Status, Counter>,
    /// Its members in the order of `CLASSES`, so that counting a request looks nothing up.
    counters: [Counter; 5],
}

impl Default for Classes {
    fn default() -> Classes {
        let family = Family::<Status, Counter>::default();
        let counters = CLASSES.map(|class| family.get_or_create_owned(&Status { class }));
        Classes { family, counters }
    }
}

impl Classes {
    pub(super) fn count(&self, status: http::StatusCode) {
        let class = (status.as_u16() / 100).clamp(1, 5) - 1;
        self.counters[class as usize].inc();
    }
}

impl Figure for Classes {
    type Shown = Family<Status, Counter>;

    fn shown(&self) -> Family<Status, Counter> {
        self.family.clone()
    }

    fn json(&self) -> Value {
        let counts = CLASSES.iter().zip(&self.counters);
        counts.map(|(class, count)| (class.to_string(), count.json())).collect::<Map<_, _>>().into()
    }
}

/// The label of a failure.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Reason {
    reason: &'static str,
}

/// Failures by their reasons.
#[derive(Default)]
pub(crate) struct Reasons {
    all: &'static [&'static str],
    family: Family<Reason, Counter>,
}

impl Reasons {
    /// `all` are the reasons that will be counted.
    pub(super) fn new(all: &'static [&'static str]) -> Reasons {
        Reasons { all, family: Family::default() }
    }

    pub(super) fn count(&self, reason: &'static str) {
        self.family.get_or_create(&Reason { reason }).inc();
    }
}

impl Figure for Reasons {
    type Shown = Family<Reason, Counter>;

    fn shown(&self) -> Family<Reason, Counter> {
        self.family.clone()
    }

    fn json(&self) -> Value {
        let count = |reason| self.family.get(&Reason { reason }).map_or(0, |count| count.get());
        let counts = self.all.iter().map(|reason| (reason.to_string(), json!(count(reason))));
        counts.collect::<Map<_, _>>().into()
    }
}

/// Counts of durations by size. Observing takes no lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram(Arc<Sharded<Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    /// One for each bound of `SECONDS`, and one above all.
    counts: [AtomicU64; SECONDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
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
}

impl Figure for Histogram {
    type Shown = Histogram;

    fn shown(&self) -> Histogram {
        self.clone()
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
        Histogram::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}
