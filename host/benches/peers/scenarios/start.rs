//! The first answer after the start, while nothing is compiled and from the cache.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bench::Bench;
use crate::lineup::{self, wasm_serve_python, wasm_serve_tcp, wasmtime};
use crate::outcome::Outcome;
use crate::report::{Bar, Limit, Spread};
use crate::running::{Ask, Server};
use crate::support::{Folder, guest, root};

pub fn first_answer(bench: &Bench) -> Result<Outcome> {
    let mut bars = Vec::new();
    println!("{:<48} {:>24} {:>24}", "milliseconds", "cold", "code cached");
    let python = root().join("host/benches/peers/hello.py");
    let guests = [
        ("wasm-serve 0.2", guest("hello"), 50.0),
        ("wasm-serve 0.3", guest("hello-0.3"), 50.0),
        ("wasm-serve, Python", python, 150.0),
    ];
    for (name, program, milliseconds_max) in guests {
        let cache = Folder::new();
        let options = format!("--threads 2 --disable-logging --cache {}", cache.0.display());
        let server = match program.extension().is_some_and(|extension| extension == "py") {
            true => wasm_serve_python(bench, name, &program, cache.0.clone(), &options),
            false => wasm_serve_tcp(bench, name, program, &options),
        };
        let (mut cold, mut cached) = (Vec::new(), Vec::new());
        for _ in 0..bench.options.rounds {
            fs::remove_dir_all(&cache.0)?;
            fs::create_dir_all(&cache.0)?;
            cold.push(milliseconds(&server)?);
            cached.push(milliseconds(&server)?);
        }
        let (cold, cached) = (Spread::of(&cold), Spread::of(&cached));
        println!("{name:<48} {cold:>24} {cached:>24}");
        bars.push(Bar::new(
            format!("first answer, code cached, {name}: ms"),
            Limit::AtMost(milliseconds_max),
            cached,
        ));
    }
    let peers = vec![wasmtime(bench, "wasmtime serve 0.2", guest("hello"), "-C cache=y"), lineup::go(bench)];
    for server in lineup::present(bench, peers) {
        milliseconds(&server)?;
        let each: Vec<f64> =
            (0..bench.options.rounds).map(|_| milliseconds(&server)).collect::<Result<_>>()?;
        println!("{:<48} {:>24} {:>24}", server.name, "", Spread::of(&each));
    }
    Ok(Outcome { bars, ..Outcome::default() })
}

fn milliseconds(server: &Server) -> Result<f64> {
    let start = Instant::now();
    let running = server.spawn()?;
    running.wait(&Ask::get("/", "Hello World"), Duration::from_micros(500))?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
