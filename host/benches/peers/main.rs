//! What wasm-serve costs, beside other servers: it starts each in turn, loads it in
//! several short rounds, and decides which of the bars that the project set itself
//! hold. `cargo bench --bench peers`; behind `--`, the names of scenarios run only
//! these, and `--list` and `--help` show what there is.
#![allow(unreachable_pub, reason = "a program has no outside")]
#![allow(clippy::disallowed_methods, reason = "it is started by what the environment names")]

/// What was asked for on the command line.
mod options;

/// The bare hyper server: what any HTTP server in Rust costs at the least.
mod bare;
/// The command line of each server.
mod lineup;
/// The other servers and the load generators: that they are installed, and where.
mod peers;

/// What everything that is measured is given.
mod bench;

/// What the kernel says of processes: CPU time and memory.
mod accounting;
/// The load generators, and what they say.
mod load;
/// Rounds over servers in rotation, and what each gave.
mod rounds;
/// A server that runs: how it is started, asked, and stopped.
mod running;

/// What a scenario leaves.
mod outcome;
/// Every scenario, by name.
mod scenarios;

/// Charts as a picture.
mod picture;
/// Tables, ratios and bars as text.
mod report;

#[path = "../../../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::bench::Bench;
use crate::options::Options;
use crate::peers::Peers;
use crate::scenarios::{SCENARIOS, Scenario};

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(kind) = options.bare {
        return bare::serve(kind, options.port);
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    if options.list {
        for scenario in SCENARIOS {
            println!("{:<12} {}", scenario.name, scenario.question);
        }
        return Ok(());
    }
    let chosen = chosen(&options.names)?;
    let peers = Peers::install(&options.without)?;
    let bench = Bench { options, peers };
    report::conditions(&bench);
    let mut bars = Vec::new();
    let mut charts = Vec::new();
    for scenario in chosen {
        println!("\n== {}: {}\n", scenario.name, scenario.question);
        let outcome = (scenario.run)(&bench).with_context(|| scenario.name.to_owned())?;
        bars.extend(outcome.bars);
        charts.extend(outcome.charts);
    }
    report::bars(&bars);
    if let Some(file) = &bench.options.svg {
        picture::write(file, &charts)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let mut chosen = Vec::new();
    for name in names {
        match SCENARIOS.iter().find(|scenario| scenario.name == name) {
            Some(scenario) => chosen.push(scenario),
            None => bail!("there is no scenario {name}; `--list` shows them all"),
        }
    }
    Ok(chosen)
}
