//! The article's run: `ab -n 10000 -c 100` against a program that reads a file
//! before it answers, and one that reads it five seconds after, beside uWSGI with
//! the article's own two files. The CPU time counts until the last deferred read.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::lineup::{self, wasm_serve_tcp};
use crate::load;
use crate::outcome::Outcome;
use crate::report::{Bar, Limit, Spread};
use crate::running::{Ask, Server};
use crate::support::{guest, root};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 100;

const FRESH: &str = "wasm-serve, deferred, fresh";
const WARM: &str = "wasm-serve, deferred, warm";
pub const UWSGI_DEFERRED: &str = "uWSGI --asyncio 2, deferred";
pub const UWSGI_BLOCKING: &str = "uWSGI, blocking";

/// What the rounds against one server gave.
#[derive(Default)]
struct Figures {
    requests_per_second: Vec<f64>,
    cpu_micros: Vec<f64>,
}

/// What the rounds gave, by the names of the servers.
pub struct Measured(Vec<(String, Figures)>);

impl Measured {
    /// The two bars of one server beside another.
    pub fn bars(&self, name: &str, other: &str, rate_min: f64, cpu_max: f64) -> [Bar; 2] {
        let of = |name: &str| self.0.iter().find(|(known, _)| known == name).map(|(_, figures)| figures);
        let both = of(name).zip(of(other));
        let rate = both.map(|(a, b)| Spread::of_ratios(&a.requests_per_second, &b.requests_per_second));
        let cpu = both.map(|(a, b)| Spread::of_ratios(&a.cpu_micros, &b.cpu_micros));
        [
            Bar::new(format!("article, {name}: requests/s, of {other}"), Limit::AtLeast(rate_min), rate),
            Bar::new(format!("article, {name}: CPU µs, of {other}"), Limit::AtMost(cpu_max), cpu),
        ]
    }
}

/// Runs each server once in each round, and prints a row for each.
pub fn measure(bench: &Bench, servers: Vec<Server>) -> Result<Measured> {
    let servers = lineup::present(bench, servers);
    let mut all: Vec<(String, Figures)> =
        servers.iter().map(|server| (server.name.clone(), Figures::default())).collect();
    for round in 0..bench.options.rounds as usize {
        eprintln!("round {} of {}", round + 1, bench.options.rounds);
        for step in 0..servers.len() {
            let at = (round + step) % servers.len();
            let (rate, cpu) = run(bench, &servers[at])?;
            all[at].1.requests_per_second.push(rate);
            all[at].1.cpu_micros.push(cpu);
        }
    }
    println!(
        "ab -n {REQUESTS} -c {CONNECTIONS}, a line a request in every log, every line of every read counted"
    );
    println!("{:<48} {:>24} {:>24}", "", "requests/s", "CPU µs/request");
    for (name, figures) in &all {
        let (rate, cpu) = (Spread::of(&figures.requests_per_second), Spread::of(&figures.cpu_micros));
        println!("{name:<48} {rate:>24} {cpu:>24}");
    }
    Ok(Measured(all))
}

pub fn article(bench: &Bench) -> Result<Outcome> {
    let ours = |name: &str, program: &str, more: &str| {
        let options =
            format!("--threads 2 --cores 2 --log-verbatim --dir {}::ro {more}", numbers().display());
        wasm_serve_tcp(bench, name, guest(program), &options)
    };
    let servers = [
        ours(FRESH, "deferred", ""),
        ours(WARM, "deferred", "--max-requests 0"),
        ours("wasm-serve, deferred, warm, --blocking-files", "deferred", "--max-requests 0 --blocking-files"),
        ours("wasm-serve, blocking, fresh", "blocking", ""),
        ours("wasm-serve, blocking, warm", "blocking", "--max-requests 0"),
        ours("wasm-serve, blocking, warm, --blocking-files", "blocking", "--max-requests 0 --blocking-files"),
        uwsgi_deferred(bench),
        uwsgi_blocking(bench),
    ];
    let measured = measure(bench, servers.into())?;
    let mut bars = Vec::new();
    for name in [FRESH, WARM] {
        bars.extend(measured.bars(name, UWSGI_DEFERRED, 1.0, 0.5));
    }
    Ok(Outcome { bars, ..Outcome::default() })
}

pub fn uwsgi_deferred(bench: &Bench) -> Server {
    let options = "--plugin python3,asyncio_python3,greenlet_python3 --asyncio 2 --greenlet";
    uwsgi(bench, UWSGI_DEFERRED, "nonblocking.py", options)
}

pub fn uwsgi_blocking(bench: &Bench) -> Server {
    uwsgi(bench, UWSGI_BLOCKING, "blocking.py", "--plugin python3")
}

fn uwsgi(bench: &Bench, name: &str, file: &str, options: &str) -> Server {
    let options = format!("--http-socket ADDRESS --listen 100 {options}");
    lineup::uwsgi(bench, name, &root().join("guests/python").join(file), Some(numbers()), &options)
}

/// The folder with the file that is read.
pub fn numbers() -> PathBuf {
    root().join("guests/rust/numbers")
}

/// Gives requests per second, and CPU microseconds for each request with its read.
fn run(bench: &Bench, server: &Server) -> Result<(f64, f64)> {
    // The bodies are counted by ab; uWSGI gives no length here.
    let running = server.start(&Ask { path: "/".into(), body: vec![], answer: None, ..Ask::default() })?;
    // The first request's own read.
    running.wait_for_lines("9:10", 1)?;
    let tree = running.tree();
    let before = tree.cpu()?;
    let rate = load::ab(&bench.peers, running.address, REQUESTS, CONNECTIONS)?;
    let lines = running.wait_for_lines("9:10", REQUESTS + 1)?;
    ensure!(lines.len() == REQUESTS + 1, "{} reads in the log, not {}", lines.len(), REQUESTS + 1);
    let first = running.wait_for_lines("0:1", REQUESTS + 1)?;
    ensure!(first.iter().filter(|line| *line == "0:1").count() == REQUESTS + 1, "lines are lost or mixed");
    let cpu = tree.cpu()?.since(before).micros() as f64 / REQUESTS as f64;
    Ok((rate, cpu))
}
