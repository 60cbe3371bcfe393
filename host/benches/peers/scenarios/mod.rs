//! Every scenario, by name.

use anyhow::Result;

use crate::options::Options;
use crate::peers::Peers;
use crate::picture::Chart;
use crate::report::Bar;
use crate::rounds::Row;

/// `Hello World` from warm and from fresh instances.
mod hello;

/// What every scenario is given.
pub struct Bench {
    pub options: Options,
    pub peers: Peers,
}

pub struct Scenario {
    pub name: &'static str,
    pub question: &'static str,
    pub run: fn(&Bench) -> Result<Outcome>,
}

/// What a scenario leaves for the end of the report. It prints its tables itself.
#[derive(Default)]
pub struct Outcome {
    pub bars: Vec<Bar>,
    pub charts: Vec<Chart>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hello-warm",
        question: "what a request costs when instances serve without end",
        run: hello::warm,
    },
    Scenario {
        name: "hello-fresh",
        question: "what a request costs when each has an instance of its own",
        run: hello::fresh,
    },
];

/// The row of this name, unless its peer was left out.
fn row<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

/// A ratio of two rows of these names.
fn ratio(
    rows: &[Row],
    name: &str,
    other: &str,
    of: fn(&Row, &Row) -> crate::report::Spread,
) -> Option<crate::report::Spread> {
    Some(of(row(rows, name)?, row(rows, other)?))
}
