//! Rounds over servers in rotation, and what each gave. What the machine does
//! beside changes from minute to minute, so figures are compared within a round,
//! and each round begins with another server.

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::load::{self, Load};
use crate::running::{Ask, Running, Server};

const WARM_UP_SECONDS: u32 = 1;

/// One measurement of one server.
pub struct Sample {
    pub load: Load,
    /// CPU time of all of its processes for each request.
    pub user_micros: f64,
    pub system_micros: f64,
    pub peak_bytes: u64,
}

impl Sample {
    pub fn requests_per_second(&self) -> f64 {
        self.load.requests_per_second()
    }

    pub fn cpu_micros(&self) -> f64 {
        self.user_micros + self.system_micros
    }
}

/// All measurements of one server, a round after the other.
pub struct Row {
    pub name: String,
    pub connections: usize,
    /// The head of its answers.
    pub head: String,
    pub samples: Vec<Sample>,
}

impl Row {
    pub fn values(&self, figure: fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(figure).collect()
    }
}

/// The row of this name, unless its peer was left out.
pub fn row<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

/// Measures each server once in each round.
pub fn rotate(bench: &Bench, servers: &[Server], ask: &Ask) -> Result<Vec<Row>> {
    let asked: Vec<(&Server, Ask)> = servers.iter().map(|server| (server, ask.clone())).collect();
    rotate_asking(bench, &asked)
}

/// The same, with a request of its own for each server.
pub fn rotate_asking(bench: &Bench, asked: &[(&Server, Ask)]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = asked.iter().map(|(server, _)| empty_row(server)).collect();
    let rounds = bench.options.rounds as usize;
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for step in 0..asked.len() {
            let at = (round + step) % asked.len();
            let (server, ask) = &asked[at];
            let sample = sample(bench, server, ask, &mut rows[at].head);
            rows[at].samples.push(sample.with_context(|| server.name.clone())?);
        }
    }
    Ok(rows)
}

fn empty_row(server: &Server) -> Row {
    let connections = server.connections;
    Row { name: server.name.clone(), connections, head: String::new(), samples: Vec::new() }
}

fn sample(bench: &Bench, server: &Server, ask: &Ask, head: &mut String) -> Result<Sample> {
    let running = server.start(ask)?;
    if head.is_empty() {
        *head = running.answer_head(ask)?;
    }
    load::wrk(&bench.peers, &running, ask, server.connections, WARM_UP_SECONDS)?;
    measure(bench, &running, ask, server.connections)
}

/// Loads a server that is warm.
pub fn measure(bench: &Bench, running: &Running, ask: &Ask, connections: usize) -> Result<Sample> {
    let tree = running.tree();
    let before = tree.cpu()?;
    let load = load::wrk(&bench.peers, running, ask, connections, bench.options.seconds)?;
    let cpu = tree.cpu()?.since(before);
    let each = |micros: u64| micros as f64 / load.requests as f64;
    Ok(Sample {
        user_micros: each(cpu.user_micros),
        system_micros: each(cpu.system_micros),
        peak_bytes: tree.peak_bytes()?,
        load,
    })
}
