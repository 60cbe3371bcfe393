//! Servers between a client and another server, an *upstream*: a bare hyper server, whose CPU time is
//! not counted.

use std::net::SocketAddr;

use anyhow::Result;

use super::article::numbers;
use super::hello;
use crate::bench::Bench;
use crate::lineup::{
    self, bare, endless_reuse, nginx_to, uwsgi, wasm_serve_python, wasm_serve_tcp, wasmtime,
};
use crate::options::Bare;
use crate::outcome::Outcome;
use crate::report::{self, Bar, Limit, cpu_ratio, ratio};
use crate::rounds::{Row, rotate};
use crate::running::{Ask, Server};
use crate::support::{guest, packages, root};

/// Each of ours, and what it is compared with.
const PAIRS: [[&str; 2]; 4] = [
    ["wasm-serve 0.2, warm", "wasmtime serve 0.2, endless reuse"],
    ["wasm-serve 0.2, fresh", "wasmtime serve 0.2, default (fresh)"],
    ["wasm-serve 0.3, warm", "wasmtime serve 0.3, default"],
    ["wasm-serve 0.3, fresh", "wasmtime serve 0.3, fresh"],
];

pub fn small(bench: &Bench) -> Result<Outcome> {
    measure(bench, "10 KB", 10_000, 64)
}

pub fn large(bench: &Bench) -> Result<Outcome> {
    measure(bench, "10 MB", 10_000_000, 8)
}

fn measure(bench: &Bench, size: &str, bytes: usize, connections: usize) -> Result<Outcome> {
    let mut ask = Ask::echo(bytes);
    let upstream = bare(Bare::PerThread).start(&ask)?;
    ask.fields = format!("x-upstream: http://{}/\r\n", upstream.address);
    let servers: Vec<Server> = lineup::present(bench, servers(bench, upstream.address))
        .into_iter()
        .map(|server| Server { connections, ..server })
        .collect();
    let rows = rotate(bench, &servers, &ask)?;
    report::rows(&rows);
    report::ratios(&rows);
    Ok(Outcome { bars: PAIRS.map(|pair| bar(size, &rows, pair)).into(), ..Outcome::default() })
}

fn servers(bench: &Bench, upstream: SocketAddr) -> Vec<Server> {
    let warm = format!("--threads 2 --disable-logging --allow-outbound http://{upstream} --max-requests 0");
    let fresh = warm.replace("--max-requests 0", "--max-requests 1");
    let [zero_two, zero_three] = ["proxy", "proxy-0.3"].map(guest);
    let ours =
        |name, guest: &std::path::Path, options| wasm_serve_tcp(bench, name, guest.to_owned(), options);
    vec![
        nginx_to(bench, "nginx proxy_pass, without buffers", upstream),
        ours(PAIRS[0][0], &zero_two, &warm),
        ours(PAIRS[1][0], &zero_two, &fresh),
        ours(PAIRS[2][0], &zero_three, &warm),
        ours(PAIRS[3][0], &zero_three, &fresh),
        wasmtime(bench, PAIRS[0][1], zero_two.clone(), &endless_reuse()),
        wasmtime(bench, PAIRS[1][1], zero_two, ""),
        wasmtime(bench, PAIRS[2][1], zero_three.clone(), ""),
        wasmtime(bench, PAIRS[3][1], zero_three, "--max-instance-reuse-count 1"),
    ]
}

fn bar(size: &str, rows: &[Row], [ours, other]: [&str; 2]) -> Bar {
    let name = format!("proxy {size}, {ours}: CPU µs, of {other}");
    Bar::new(name, Limit::AtMost(0.8), ratio(rows, ours, other, cpu_ratio))
}

/// One request to the upstream for each request, by what Python's users take for it.
pub fn python(bench: &Bench) -> Result<Outcome> {
    let ask = Ask::get("/", "Hello World");
    let upstream = bare(Bare::PerThread).start(&ask)?;
    let (file, requests) = (root().join("host/benches/peers/upstream.py"), packages::requests());
    let (address, packages) = (upstream.address, requests.display());
    let ours = |name: &str, options: &str| {
        let options = format!(
            "--threads 2 --disable-logging --pythonpath {packages} --env UPSTREAM=http://{address}/ \
             --allow-outbound http://{address} {options}"
        );
        wasm_serve_python(bench, name, &file, numbers(), &options)
    };
    let options =
        format!("{} --pythonpath {packages} --env UPSTREAM=http://{address}/", hello::UWSGI_BY_ITS_ROUTER);
    let servers = vec![
        ours("wasm-serve, requests, warm", ""),
        ours("wasm-serve, requests, fresh", "--max-requests 1"),
        uwsgi(bench, "uWSGI, requests", &file, None, &options),
    ];
    let rows = rotate(bench, &lineup::present(bench, servers), &ask)?;
    report::rows(&rows);
    report::ratios(&rows);
    Ok(Outcome::default())
}
