//! Tables, ratios and bars as text. A figure over several rounds is the median,
//! with the least and the most behind it.

use std::fmt;

use crate::bench::Bench;
use crate::rounds::{Row, Sample, row};

/// A figure over several rounds.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Spread { median: sorted[sorted.len() / 2], least: sorted[0], most: sorted[sorted.len() - 1] }
    }

    /// Each value through the one of the same round.
    pub fn of_ratios(values: &[f64], others: &[f64]) -> Spread {
        let ratios: Vec<f64> = values.iter().zip(others).map(|(value, other)| value / other).collect();
        Spread::of(&ratios)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.median {
            median if median >= 1000.0 => 0,
            median if median >= 10.0 => 1,
            _ => 2,
        };
        let Spread { median, least, most } = self;
        let text = format!("{median:.digits$} ({least:.digits$}–{most:.digits$})");
        formatter.pad(&text)
    }
}

/// What a figure must be for its bar to hold.
#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// A bar that the project set itself.
pub struct Bar {
    pub what: String,
    pub limit: Limit,
    /// `None` if a peer was left out.
    pub figure: Option<Spread>,
}

impl Bar {
    pub fn new(what: impl Into<String>, limit: Limit, figure: impl Into<Option<Spread>>) -> Bar {
        Bar { what: what.into(), limit, figure: figure.into() }
    }

    fn verdict(&self) -> &'static str {
        let Some(figure) = self.figure else { return "not decided" };
        let holds = match self.limit {
            Limit::AtMost(most) => figure.median <= most,
            Limit::AtLeast(least) => figure.median >= least,
        };
        if holds { "holds" } else { "does not hold" }
    }
}

/// What holds for all that follows.
pub fn conditions(bench: &Bench) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let options = &bench.options;
    println!(
        "{cpus} CPUs, shared with the load generator; {} rounds of {} s; figures are: median (least–most)",
        options.rounds, options.seconds
    );
    if !options.wasm_serve.is_empty() {
        println!("wasm-serve with {}", options.wasm_serve);
    }
    for peer in bench.peers.without() {
        println!("without {peer:?}, as asked");
    }
}

/// What each server sends, and what it did under load, the first being the measure
/// of the others.
pub fn rows(rows: &[Row]) {
    println!("heads of the answers:");
    for row in rows {
        let lines: Vec<&str> = row.head.lines().filter(|line| !line.is_empty()).collect();
        println!("  {:<48} {} bytes: {}", row.name, row.head.len(), lines.join(" | "));
    }
    println!();
    println!(
        "{:<48} {:>24} {:>22} {:>6} {:>6} {:>8} {:>8} {:>8} {:>9}",
        "", "requests/s", "CPU µs/request", "user", "system", "p50 ms", "p99 ms", "p99.9 ms", "peak MiB"
    );
    for row in rows {
        let spread = |figure: fn(&Sample) -> f64| Spread::of(&row.values(figure));
        println!(
            "{:<48} {:>24} {:>22} {:>6.1} {:>6.1} {:>8.2} {:>8.2} {:>8.2} {:>9.1}",
            row.name,
            spread(Sample::requests_per_second),
            spread(Sample::cpu_micros),
            spread(|sample| sample.user_micros).median,
            spread(|sample| sample.system_micros).median,
            spread(|sample| sample.load.p50_micros).median / 1e3,
            spread(|sample| sample.load.p99_micros).median / 1e3,
            spread(|sample| sample.load.p999_micros).median / 1e3,
            spread(|sample| sample.peak_bytes as f64).median / (1 << 20) as f64
        );
    }
    for row in rows.iter().filter(|row| row.connections != rows[0].connections) {
        println!("{}: with {} connections instead of {}", row.name, row.connections, rows[0].connections);
    }
}

/// Each of our own rows against each other row, round by round.
pub fn ratios(rows: &[Row]) {
    println!("\n{:<70} {:>20} {:>20}", "in the same round", "requests/s", "CPU µs/request");
    for ours in rows.iter().filter(|row| row.name.starts_with("wasm-serve")) {
        for other in rows.iter().filter(|row| row.name != ours.name) {
            println!(
                "{:<70} {:>20} {:>20}",
                format!("{} / {}", ours.name, other.name),
                rate_ratio(ours, other),
                cpu_ratio(ours, other)
            );
        }
    }
}

pub fn rate_ratio(row: &Row, other: &Row) -> Spread {
    Spread::of_ratios(&row.values(Sample::requests_per_second), &other.values(Sample::requests_per_second))
}

pub fn cpu_ratio(row: &Row, other: &Row) -> Spread {
    Spread::of_ratios(&row.values(Sample::cpu_micros), &other.values(Sample::cpu_micros))
}

/// A ratio of two rows of these names.
pub fn ratio(rows: &[Row], name: &str, other: &str, of: fn(&Row, &Row) -> Spread) -> Option<Spread> {
    Some(of(row(rows, name)?, row(rows, other)?))
}

/// The end of the report.
pub fn bars(bars: &[Bar]) {
    if bars.is_empty() {
        return;
    }
    println!("\n{:<84} {:>16} {:>24}", "bar", "limit", "figure");
    for bar in bars {
        let limit = match bar.limit {
            Limit::AtMost(most) => format!("at most {most}"),
            Limit::AtLeast(least) => format!("at least {least}"),
        };
        let figure = bar.figure.map_or_else(String::new, |figure| figure.to_string());
        println!("{:<84} {:>16} {:>24}   {}", bar.what, limit, figure, bar.verdict());
    }
}
