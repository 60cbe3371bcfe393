//! `Hello World` from warm and from fresh instances, beside every peer.

use std::path::PathBuf;

use anyhow::Result;

use crate::bench::Bench;
use crate::lineup::{self, Behind, bare, endless_reuse, wasm_serve_tcp, wasmtime};
use crate::options::Bare;
use crate::outcome::Outcome;
use crate::picture::Chart;
use crate::report::{self, Bar, Limit, cpu_ratio, rate_ratio, ratio};
use crate::rounds::{Row, rotate};
use crate::running::{Ask, Server};
use crate::support::{guest, root, scripts};

/// The options of uWSGI with its HTTP router, which keeps connections alive.
pub const UWSGI_BY_ITS_ROUTER: &str =
    "--plugin http,python3 --http ADDRESS --http-keepalive=1 --threads 2 --disable-logging";
const WARM: &str = "--threads 2 --disable-logging --max-requests 0";
const FRESH: &str = "--threads 2 --disable-logging";

const BARE: &str = "bare hyper";
const OURS: &str = "wasm-serve 0.2";
const OURS_3: &str = "wasm-serve 0.3";
const OURS_ONE_THREAD: &str = "wasm-serve 0.2, 1 thread";
const OURS_3_ONE_THREAD: &str = "wasm-serve 0.3, 1 thread";
const WASMTIME: &str = "wasmtime serve 0.2, default";
const WASMTIME_ENDLESS: &str = "wasmtime serve 0.2, endless reuse";
const WASMTIME_3: &str = "wasmtime serve 0.3, default";
const WASMTIME_3_ENDLESS: &str = "wasmtime serve 0.3, endless reuse";
const WASMTIME_3_ONCE: &str = "wasmtime serve 0.3, 1 use";

pub fn warm(bench: &Bench) -> Result<Outcome> {
    let rows = measure(
        bench,
        vec![
            bare(Bare::Shared),
            bare(Bare::PerThread),
            wasm_serve_tcp(bench, OURS, guest("hello"), WARM),
            wasm_serve_tcp(bench, OURS_3, guest("hello-0.3"), WARM),
            wasmtime(bench, WASMTIME_ENDLESS, guest("hello"), &endless_reuse()),
            wasmtime(bench, WASMTIME_3, guest("hello-0.3"), ""),
            wasmtime(bench, WASMTIME_3_ENDLESS, guest("hello-0.3"), &endless_reuse()),
            lineup::go(bench),
            lineup::nginx_file(bench),
            lineup::nginx_proxy(bench, Behind::Tcp, guest("hello"), WARM),
            lineup::nginx_proxy(bench, Behind::Unix, guest("hello"), WARM),
            uwsgi_by_its_router(bench),
            uwsgi_by_two_connections(bench),
        ],
    )?;
    let bars = vec![
        Bar::new(
            "hello 0.2 warm: CPU µs, of bare hyper's",
            Limit::AtMost(1.35),
            ratio(&rows, OURS, BARE, cpu_ratio),
        ),
        Bar::new(
            "hello 0.2 warm: requests/s, of wasmtime serve with endless reuse",
            Limit::AtLeast(1.6),
            ratio(&rows, OURS, WASMTIME_ENDLESS, rate_ratio),
        ),
        Bar::new(
            "hello 0.3 warm: CPU µs, of bare hyper's",
            Limit::AtMost(2.2),
            ratio(&rows, OURS_3, BARE, cpu_ratio),
        ),
        Bar::new(
            "hello 0.3 warm: requests/s, of wasmtime serve 0.3",
            Limit::AtLeast(1.6),
            ratio(&rows, OURS_3, WASMTIME_3, rate_ratio),
        ),
    ];
    Ok(Outcome { bars, charts: Chart::both("Warm instances", &rows) })
}

pub fn fresh(bench: &Bench) -> Result<Outcome> {
    let one_thread = "--threads 1 --disable-logging";
    let rows = measure(
        bench,
        vec![
            bare(Bare::Shared),
            wasm_serve_tcp(bench, OURS, guest("hello"), FRESH),
            wasm_serve_tcp(bench, OURS_ONE_THREAD, guest("hello"), one_thread),
            wasm_serve_tcp(bench, OURS_3, guest("hello-0.3"), FRESH),
            wasm_serve_tcp(bench, OURS_3_ONE_THREAD, guest("hello-0.3"), one_thread),
            wasmtime(bench, WASMTIME, guest("hello"), ""),
            wasmtime(bench, WASMTIME_3_ONCE, guest("hello-0.3"), "--max-instance-reuse-count 1"),
        ],
    )?;
    let bars = vec![
        Bar::new(
            "hello 0.2 fresh: CPU µs, of bare hyper's",
            Limit::AtMost(5.0),
            ratio(&rows, OURS, BARE, cpu_ratio),
        ),
        Bar::new(
            "hello 0.2 fresh: requests/s, of wasmtime serve",
            Limit::AtLeast(4.0),
            ratio(&rows, OURS, WASMTIME, rate_ratio),
        ),
        Bar::new(
            "hello 0.3 fresh: CPU µs, of bare hyper's",
            Limit::AtMost(8.0),
            ratio(&rows, OURS_3, BARE, cpu_ratio),
        ),
        Bar::new(
            "hello 0.3 fresh: requests/s, of wasmtime serve with 1 use",
            Limit::AtLeast(5.0),
            ratio(&rows, OURS_3, WASMTIME_3_ONCE, rate_ratio),
        ),
        Bar::new(
            "hello 0.2 fresh, 2 CPUs against 1: requests/s",
            Limit::AtLeast(1.7),
            ratio(&rows, OURS, OURS_ONE_THREAD, rate_ratio),
        ),
        Bar::new(
            "hello 0.3 fresh, 2 CPUs against 1: requests/s",
            Limit::AtLeast(1.7),
            ratio(&rows, OURS_3, OURS_3_ONE_THREAD, rate_ratio),
        ),
    ];
    Ok(Outcome { bars, charts: Chart::both("A fresh instance for each request", &rows) })
}

pub fn program(bench: &Bench) -> Result<Outcome> {
    const PROGRAM: &str = "wasm-serve, a program in C";
    let in_c = scripts::build("c/cgi", "programs-in-c").join("hello.wasm");
    let rows = measure(
        bench,
        vec![wasm_serve_tcp(bench, OURS, guest("hello"), FRESH), wasm_serve_tcp(bench, PROGRAM, in_c, FRESH)],
    )?;
    let bars = vec![Bar::new(
        "program in C, fresh: CPU µs, of hello 0.2's",
        Limit::AtMost(1.5),
        ratio(&rows, PROGRAM, OURS, cpu_ratio),
    )];
    Ok(Outcome { bars, charts: Vec::new() })
}

fn measure(bench: &Bench, servers: Vec<Server>) -> Result<Vec<Row>> {
    let servers = lineup::present(bench, servers);
    let rows = rotate(bench, &servers, &Ask::get("/", "Hello World"))?;
    report::rows(&rows);
    report::ratios(&rows);
    Ok(rows)
}

/// uWSGI as its documentation says for connections that are kept alive: a process
/// of its own keeps them and hands their requests to the workers.
pub fn uwsgi_by_its_router(bench: &Bench) -> Server {
    lineup::uwsgi(bench, "uWSGI, its HTTP router", &hello_py(), None, UWSGI_BY_ITS_ROUTER)
}

/// Without the router a thread of uWSGI serves one connection until that is closed.
/// So two connections are all that two threads can serve, and its best case.
pub fn uwsgi_by_two_connections(bench: &Bench) -> Server {
    let options = "--plugin python3 --http11-socket ADDRESS --threads 2 --disable-logging";
    let server = lineup::uwsgi(bench, "uWSGI, 2 connections", &hello_py(), None, options);
    Server { connections: 2, ..server }
}

fn hello_py() -> PathBuf {
    root().join("host/benches/peers/hello.py")
}
