//! Many connections of which most are idle: what each costs in memory, and
//! whether the busy ones notice. `wasmtime serve` is not here: with so many clients,
//! one of its answers did not come within 30 seconds.

use anyhow::{Context, Result, ensure};

use crate::bench::Bench;
use crate::lineup::{self, bare, wasm_serve_tcp};
use crate::options::Bare;
use crate::outcome::Outcome;
use crate::report::{self, Bar, Limit, Spread};
use crate::rounds::{Row, Sample, measure};
use crate::running::{Ask, Running, head};
use crate::support::client::Connection;
use crate::support::guest;

const CONNECTIONS: usize = 2000;
const OURS: &str = "wasm-serve 0.2";

pub fn idle(bench: &Bench) -> Result<Outcome> {
    ensure!(
        files_max()? > CONNECTIONS as u64 + 200,
        "this needs more open files than the limit allows; run `ulimit -n 10000` first"
    );
    let servers = lineup::present(
        bench,
        vec![
            bare(Bare::Shared),
            wasm_serve_tcp(bench, OURS, guest("hello"), "--threads 2 --disable-logging --max-requests 0"),
            lineup::go(bench),
        ],
    );
    let ask = Ask::get("/", "Hello World");
    let mut rows: Vec<Row> = Vec::new();
    let mut bars = Vec::new();
    println!("resident memory for each of {CONNECTIONS} connections that were answered once and are idle:");
    for server in &servers {
        let mut each = Vec::new();
        let mut row = Row {
            name: server.name.clone(),
            connections: server.connections,
            head: String::new(),
            samples: vec![],
        };
        for _ in 0..bench.options.rounds {
            let running = server.start(&ask)?;
            row.head = running.answer_head(&ask)?;
            let (bytes, sample) = round(bench, &running, &ask, server.connections)?;
            each.push(bytes / 1024.0);
            row.samples.push(sample);
        }
        let each = Spread::of(&each);
        println!("  {:<48} {each} KiB", server.name);
        if server.name == OURS {
            bars.push(Bar::new("2,000 idle connections: KiB each", Limit::AtMost(20.0), each));
        }
        rows.push(row);
    }
    println!("\nwith {CONNECTIONS} idle connections beside the busy ones:");
    report::rows(&rows);
    Ok(Outcome { bars, ..Outcome::default() })
}

/// Gives the bytes for each idle connection, and a measurement beside them.
fn round(bench: &Bench, running: &Running, ask: &Ask, connections: usize) -> Result<(f64, Sample)> {
    // What the server takes for its first busy seconds is not the connections'.
    measure(bench, running, ask, connections)?;
    let tree = running.tree();
    let before = tree.resident_bytes()?;
    let mut idle = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::over(running.connect()?);
        connection.send(head(ask));
        ensure!(connection.try_reply()?.status == 200, "an answer is wrong");
        idle.push(connection);
    }
    let bytes = (tree.resident_bytes()?.saturating_sub(before)) as f64 / CONNECTIONS as f64;
    let sample = measure(bench, running, ask, connections)?;
    Ok((bytes, sample))
}

fn files_max() -> Result<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.context("/proc/self/limits has no number of open files")
}
