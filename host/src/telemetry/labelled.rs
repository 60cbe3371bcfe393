//! Figures of which there are many, each with labels of its own: destinations, outcomes, kinds. Each
//! is made when it is first counted. There are no more than there are labels: whoever counts takes
//! them from the command line and from the program, never from what guests or clients say.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Metric;
use serde_json::{Value, json};

use super::figure::{Figure, Histogram};
use crate::memory::account::OnNoAccount;

/// Labels, and where in the JSON the figure with them is.
pub(crate) trait Labels: EncodeLabelSet + Ord + Clone + Debug + Send + Sync + 'static {
    fn place(&self) -> Vec<&str>;
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct To {
    pub destination: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct Ended {
    pub destination: Arc<str>,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct Kind {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub outcome: &'static str,
}

impl Labels for To {
    fn place(&self) -> Vec<&str> {
        vec![&self.destination]
    }
}

impl Labels for Ended {
    fn place(&self) -> Vec<&str> {
        vec![&self.destination, self.outcome]
    }
}

impl Labels for Kind {
    fn place(&self) -> Vec<&str> {
        vec![self.kind]
    }
}

impl Labels for Outcome {
    fn place(&self) -> Vec<&str> {
        vec![self.outcome]
    }
}

/// Figures of one kind, by their labels. What is counted here is so rare that threads may meet.
#[derive(Clone)]
pub(crate) struct Labelled<L, M>(Arc<RwLock<BTreeMap<L, M>>>);

impl<L, M> Default for Labelled<L, M> {
    fn default() -> Labelled<L, M> {
        Labelled(Arc::default())
    }
}

impl<L: Debug, M: Debug> Debug for Labelled<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.read().iter()).finish()
    }
}

impl<L: Labels, M: Default> Labelled<L, M> {
    fn with(&self, labels: L, count: impl FnOnce(&M)) {
        // It stays longer than any instance.
        let _until_end = OnNoAccount::begin();
        if let Some(figure) = self.0.read().get(&labels) {
            return count(figure);
        }
        count(self.0.write().entry(labels).or_default());
    }
}

impl<L: Labels> Labelled<L, Counter> {
    pub(crate) fn count(&self, labels: L) {
        self.with(labels, |counter| _ = counter.inc());
    }
}

impl<L: Labels> Labelled<L, Histogram> {
    pub(crate) fn observe(&self, labels: L, time: std::time::Duration) {
        self.with(labels, |histogram| histogram.observe(time));
    }
}

impl<L: Labels, M: Figure + Metric + TypedMetric + Clone> Figure for Labelled<L, M> {
    type Shown = Labelled<L, M>;

    fn shown(&self) -> Labelled<L, M> {
        self.clone()
    }

    fn json(&self) -> Value {
        let mut all = json!({});
        for (labels, figure) in &*self.0.read() {
            *labels.place().into_iter().fold(&mut all, |within, key| &mut within[key]) = figure.json();
        }
        all
    }
}

impl<L: Labels, M: EncodeMetric + TypedMetric> EncodeMetric for Labelled<L, M> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        for (labels, figure) in &*self.0.read() {
            figure.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }
}
