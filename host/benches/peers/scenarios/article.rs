//! The article's run: `ab -n 10000 -c 100` against a program that reads a file
//! before it answers, and one that reads it five seconds after, beside uWSGI with
//! the article's own two files. uWSGI reads files in the thread that serves, and so
//! does wasm-serve here by `--blocking-files`, but for the last row of each. The CPU time counts until the last deferred read.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Bench, Outcome};
use crate::lineup::{self, wasm_serve_tcp};
use crate::load;
use crate::report::{Bar, Limit, Spread};
use crate::running::{Ask, Server};
use crate::support::{guest, root};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 100;

const FRESH: &str = "wasm-serve, deferred, fresh";
const WARM: &str = "wasm-serve, deferred, warm";

/// What the rounds against one server gave.
struct Figures {
    requests_per_second: Vec<f64>,
    cpu_micros: Vec<f64>,
}

pub fn article(bench: &Bench) -> Result<Outcome> {
    let numbers = root().join("guests/rust/numbers");
    let ours = |name: &str, program: &str, more: &str| {
        let options = format!("--threads 2 --cores 2 --dir {}::ro {more}", numbers.display());
        (wasm_serve_tcp(bench, name, guest(program), &options), program == "deferred")
    };
    let servers = [
        ours(FRESH, "deferred", "--blocking-files"),
        ours(WARM, "deferred", "--blocking-files --max-requests 0"),
        ours("wasm-serve, deferred, fresh, files in threads", "deferred", ""),
        ours("wasm-serve, blocking, fresh", "blocking", "--blocking-files"),
        ours("wasm-serve, blocking, warm", "blocking", "--blocking-files --max-requests 0"),
        ours("wasm-serve, blocking, fresh, files in threads", "blocking", ""),
        (
            uwsgi(
                bench,
                "uWSGI --asyncio 2, deferred",
                "nonblocking.py",
                &numbers,
                "--plugin python3,asyncio_python3,greenlet_python3 --asyncio 2 --greenlet",
            ),
            true,
        ),
        (uwsgi(bench, "uWSGI, blocking", "blocking.py", &numbers, "--plugin python3"), false),
    ];
    let servers: Vec<_> = servers
        .into_iter()
        .filter(|(server, _)| server.peer.is_none_or(|peer| bench.peers.has(peer)))
        .collect();
    let mut figures: Vec<Figures> =
        servers.iter().map(|_| Figures { requests_per_second: vec![], cpu_micros: vec![] }).collect();
    for round in 0..bench.options.rounds as usize {
        eprintln!("round {} of {}", round + 1, bench.options.rounds);
        for step in 0..servers.len() {
            let at = (round + step) % servers.len();
            let (server, is_deferred) = &servers[at];
            let (rate, cpu) = run(bench, server, *is_deferred)?;
            figures[at].requests_per_second.push(rate);
            figures[at].cpu_micros.push(cpu);
        }
    }
    println!(
        "ab -n {REQUESTS} -c {CONNECTIONS}, a line a request in every log, every line of every read counted"
    );
    println!("{:<48} {:>24} {:>24}", "", "requests/s", "CPU µs/request");
    for ((server, _), figures) in servers.iter().zip(&figures) {
        let (rate, cpu) = (Spread::of(&figures.requests_per_second), Spread::of(&figures.cpu_micros));
        println!("{:<48} {rate:>24} {cpu:>24}", server.name);
    }
    let of = |name: &str| servers.iter().position(|(server, _)| server.name == name).map(|at| &figures[at]);
    let mut bars = Vec::new();
    for name in [FRESH, WARM] {
        let (ours, uwsgi) = (of(name), of("uWSGI --asyncio 2, deferred"));
        let both = ours.zip(uwsgi);
        bars.push(Bar::new(
            format!("article, {name}: requests/s, of uWSGI --asyncio 2"),
            Limit::AtLeast(1.0),
            both.map(|(a, b)| Spread::of_ratios(&a.requests_per_second, &b.requests_per_second)),
        ));
        bars.push(Bar::new(
            format!("article, {name}: CPU µs, of uWSGI --asyncio 2"),
            Limit::AtMost(0.5),
            both.map(|(a, b)| Spread::of_ratios(&a.cpu_micros, &b.cpu_micros)),
        ));
    }
    Ok(Outcome { bars, ..Outcome::default() })
}

fn uwsgi(bench: &Bench, name: &str, file: &str, folder: &Path, options: &str) -> Server {
    let options = format!("--http-socket ADDRESS --listen 100 {options}");
    lineup::uwsgi(bench, name, &root().join("guests/python").join(file), Some(folder.to_owned()), &options)
}

/// Gives requests per second, and CPU microseconds for each request with its read.
fn run(bench: &Bench, server: &Server, is_deferred: bool) -> Result<(f64, f64)> {
    // The bodies are counted by ab; uWSGI gives no length here.
    let running = server.start(&Ask { path: "/".into(), body: vec![], answer: None })?;
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
    if is_deferred {
        eprintln!("{}: {rate:.0} requests/s, all deferred reads seen", server.name);
    }
    Ok((rate, cpu))
}
