//! A body sent back as it came: small enough for one read, and large enough to
//! stream.

use anyhow::Result;

use crate::bench::Bench;
use crate::lineup::{self, bare, endless_reuse, wasm_serve_tcp, wasmtime};
use crate::options::Bare;
use crate::outcome::Outcome;
use crate::report;
use crate::rounds::rotate;
use crate::running::{Ask, Server};
use crate::support::guest;

const WARM: &str = "--threads 2 --disable-logging --max-requests 0";

pub fn small(bench: &Bench) -> Result<Outcome> {
    measure(bench, 10_000, 64)
}

pub fn large(bench: &Bench) -> Result<Outcome> {
    measure(bench, 10_000_000, 8)
}

fn measure(bench: &Bench, bytes: usize, connections: usize) -> Result<Outcome> {
    let servers = vec![
        bare(Bare::Shared),
        wasm_serve_tcp(bench, "wasm-serve 0.2", guest("echo"), WARM),
        wasm_serve_tcp(bench, "wasm-serve 0.3", guest("echo-0.3"), WARM),
        wasmtime(bench, "wasmtime serve 0.2, endless reuse", guest("echo"), &endless_reuse()),
        wasmtime(bench, "wasmtime serve 0.3, default", guest("echo-0.3"), ""),
    ];
    let servers: Vec<Server> =
        lineup::present(bench, servers).into_iter().map(|server| Server { connections, ..server }).collect();
    let rows = rotate(bench, &servers, &Ask::echo(bytes))?;
    report::rows(&rows);
    report::ratios(&rows);
    Ok(Outcome::default())
}
