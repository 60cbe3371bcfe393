//! A guest that waits in a host call: what counts is how many can wait at once.
//! `wasmtime serve` is not here: half of its answers were errors.

use anyhow::Result;

use crate::bench::Bench;
use crate::lineup::wasm_serve_tcp;
use crate::outcome::Outcome;
use crate::report;
use crate::rounds::rotate;
use crate::running::{Ask, Server};
use crate::support::fault_guests;

const CONNECTIONS: usize = 1000;

pub fn waiting(bench: &Bench) -> Result<Outcome> {
    let guest = fault_guests::component("faults");
    let servers = vec![
        wasm_serve_tcp(
            bench,
            "wasm-serve 0.2, 1000 cores, warm",
            guest.clone(),
            "--threads 2 --disable-logging --cores 1000 --cores-per-client 0 --max-requests 0",
        ),
        wasm_serve_tcp(
            bench,
            "wasm-serve 0.2, 1000 cores, fresh",
            guest,
            "--threads 2 --disable-logging --cores 1000 --cores-per-client 0",
        ),
    ];
    let servers: Vec<Server> =
        servers.into_iter().map(|server| Server { connections: CONNECTIONS, ..server }).collect();
    let rows = rotate(bench, &servers, &Ask::get("/sleep/50", "slept"))?;
    report::rows(&rows);
    println!("{CONNECTIONS} connections that each wait 50 ms give at most 20000 requests/s");
    Ok(Outcome::default())
}
