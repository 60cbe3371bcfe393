//! The figures of a server: counted where things happen, shown on `--stats` as
//! Prometheus text and as JSON. What a request counts is kept in shards, so that
//! two threads do not write to the same place.

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::figure::{Classes, Counter, Figure, Histogram, Reasons};
use super::labelled::{Ended, Kind, Labelled, Outcome, To};

/// The one list of figures: its name, its kind, its place in the JSON, and what it means.
macro_rules! figures {
    ($($name:ident: $kind:ty, $place:literal, $help:literal;)*) => {
        /// All figures. Those that nobody counts are set when someone asks.
        #[derive(Default)]
        pub(crate) struct Stats {
            $(#[doc = $help] pub(crate) $name: $kind,)*
        }

        impl Stats {
            fn registry(&self) -> Registry {
                let mut registry = Registry::with_prefix("wasm_serve");
                $(registry.register(stringify!($name), $help, self.$name.shown());)*
                registry
            }

            /// Each figure with its place in the JSON.
            fn values(&self) -> impl Iterator<Item = (&'static str, Value)> {
                [$(($place, self.$name.json()),)*].into_iter()
            }
        }
    };
}

figures! {
    requests: Classes, "requests.answered", "Requests answered, by class of status";
    failures: Reasons, "requests.failures", "Requests and deferred calls without a result of the guest's own";
    broken: Counter, "requests.broken", "Requests whose guest did not give the whole response";
    cancelled: Counter, "requests.cancelled", "Requests whose client left before the response was complete";
    request_seconds: Histogram, "requests.seconds", "From the request's head to the response's end";
    connections_accepted: Counter, "connections.accepted", "Connections accepted";
    connections_refused: Counter, "connections.refused", "Connections beyond --connections-per-client";
    connections: Gauge, "connections.open", "Connections open";
    cores: Gauge, "cores.all", "Cores";
    cores_busy: Gauge, "cores.busy", "Cores that a guest call holds";
    queue: Gauge, "cores.queue", "Requests that wait for a core";
    memory_total_bytes: Gauge, "memory_bytes.total", "Memory that all instances may take (--memory-total)";
    memory_bytes: Gauge, "memory_bytes.taken", "Memory that all instances take, with what the server holds for them";
    instances_created: Counter, "instances_created", "Instances made";
    tails_stopped: Counter, "tails_stopped", "Tails that trapped or were stopped at their deadline";
    swaps_done: Counter, "swaps.done", "Times that the guest was swapped";
    swaps_refused: Counter, "swaps.refused", "Swaps of the guest that were refused";
    deferred_scheduled: Counter, "deferred.scheduled", "Deferred calls accepted";
    deferred_refused: Counter, "deferred.refused", "Deferred calls refused at a limit";
    deferred_pending: Gauge, "deferred.pending", "Deferred calls not yet started; in a store, those that run, too";
    deferred_running: Gauge, "deferred.running", "Deferred calls under way";
    deferred_done: Counter, "deferred.done", "Deferred calls that ended well";
    deferred_failed: Counter, "deferred.failed", "Deferred calls that ended badly";
    deferred_retried: Gauge, "deferred.retried", "Runs of deferred calls that this server has let run again";
    deferred_set_aside: Gauge, "deferred.set_aside", "Deferred calls that their store keeps with their errors";
    deferred_cancelled: Counter, "deferred.cancelled", "Deferred calls cancelled";
    deferred_dropped: Counter, "deferred.dropped", "Deferred calls left pending at the stop";
    deferred_lateness_seconds: Histogram, "deferred.lateness_seconds", "From the due time of a deferred call to its start";
    outbound_requests: Labelled<Ended, counter::Counter>, "outbound.requests", "Outbound requests by what grants them, and by their outcome";
    outbound_connections: Labelled<Ended, counter::Counter>, "outbound.connections", "Connections of sockets by what grants them, and by their outcome";
    outbound_refused: Labelled<Kind, counter::Counter>, "outbound.refused", "What guests wanted of the network and were not granted";
    outbound_tls: Labelled<Outcome, counter::Counter>, "outbound.tls", "Handshakes of TLS over sockets of guests";
    outbound_connect_seconds: Labelled<To, Histogram>, "outbound.connect_seconds", "From asking for a connection to having it, with TLS of requests";
    outbound_first_byte_seconds: Labelled<To, Histogram>, "outbound.first_byte_seconds", "From an outbound request to the head of its response";
    outbound_request_seconds: Labelled<To, Histogram>, "outbound.request_seconds", "From an outbound request to its end";
    log_lines_dropped: Gauge, "log_lines_dropped", "Log lines that found no room";
    guest_lines_dropped: Gauge, "guest_output_dropped.lines", "Lines of guests beyond --log-rate and --log-burst";
    guest_bytes_dropped: Gauge, "guest_output_dropped.bytes", "Bytes of these lines";
}

impl Stats {
    /// `reasons` are all that `count_failure` is told.
    pub(crate) fn new(reasons: &'static [&'static str]) -> Stats {
        Stats { failures: Reasons::new(reasons), ..Stats::default() }
    }

    /// Counts an answered request.
    pub(crate) fn count_request(&self, status: http::StatusCode, time: Duration) {
        self.requests.count(status);
        self.request_seconds.observe(time);
    }

    /// Counts a failure, under the name that `error` gives it.
    pub(crate) fn count_failure(&self, reason: &'static str) {
        self.failures.count(reason);
    }

    /// The figures as Prometheus text (OpenMetrics 1.0).
    pub(crate) fn prometheus(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry()).expect("a String takes all that is written");
        text
    }

    /// The figures as JSON.
    pub(crate) fn json(&self) -> Value {
        let mut all = Value::Null;
        for (place, value) in self.values() {
            *place.split('.').fold(&mut all, |within, key| &mut within[key]) = value;
        }
        all
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
        stats.deferred_pending.set(7);
        let text = stats.prometheus();
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
        let json = stats.json();
        assert_eq!(json["requests"]["answered"]["2xx"], 1);
        assert_eq!(json["requests"]["failures"]["trap"], 1);
        assert_eq!(json["deferred"]["pending"], 7);
        assert_eq!(json["deferred"]["lateness_seconds"]["count"], 1);
    }

    #[test]
    fn each_figure_has_a_place_of_its_own() {
        let stats = Stats::default();
        let places: Vec<_> = stats.values().map(|(place, _)| place).collect();
        for (at, place) in places.iter().enumerate() {
            let within = |other: &&&str| **other == *place || other.starts_with(&format!("{place}."));
            assert_eq!(
                places[at + 1..].iter().chain(&places[..at]).find(|other| within(other)),
                None,
                "{place}"
            );
        }
    }
}
