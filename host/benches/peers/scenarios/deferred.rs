//! Deferred calls: what scheduling one adds to a request, what a million pending
//! ones cost, what ten thousand due at once do to requests, and how late one is
//! on an idle server.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wasm_serve::deferred::{Asked, Deferred, Limits};

use crate::bench::Bench;
use crate::lineup::wasm_serve_tcp;
use crate::load;
use crate::outcome::Outcome;
use crate::report::{self, Bar, Limit, Spread, cpu_ratio, ratio};
use crate::rounds::{Row, rotate_asking};
use crate::running::{Ask, Running};
use crate::support::fault_guests;

const WARM: &str = "--threads 2 --disable-logging --max-requests 0";
const MILLION: u64 = 1_000_000;
const DUE_AT_ONCE: usize = 10_000;
/// Calls that one request schedules, as many as the server allows.
const PER_REQUEST: usize = 1000;
const HOUR_MS: u64 = 3_600_000;

fn guest() -> PathBuf {
    fault_guests::component("deferred-faults")
}

/// The same guest answers, with and without scheduling a call that is due after
/// the measurement.
pub fn beside_plain(bench: &Bench) -> Result<Outcome> {
    let room = format!("{WARM} --deferred-pending 100000000 --deferred-memory 16G");
    let plain = wasm_serve_tcp(bench, "wasm-serve, plain", guest(), &room);
    let deferred = wasm_serve_tcp(bench, "wasm-serve, deferred", guest(), &room);
    let later = Ask {
        path: format!("/later/{HOUR_MS}/sixteen-bytes-xx"),
        body: vec![],
        answer: None,
        ..Ask::default()
    };
    let rows: Vec<Row> =
        rotate_asking(bench, &[(&plain, Ask::get("/hello", "Hello World")), (&deferred, later)])?;
    report::rows(&rows);
    report::ratios(&rows);
    let figure = ratio(&rows, "wasm-serve, deferred", "wasm-serve, plain", cpu_ratio);
    let bars = vec![Bar::new("deferred against plain, same guest: CPU µs", Limit::AtMost(1.10), figure)];
    Ok(Outcome { bars, ..Outcome::default() })
}

pub fn million_pending(bench: &Bench) -> Result<Outcome> {
    let rates: Vec<f64> = (0..bench.options.rounds).map(|_| scheduled_per_second()).collect::<Result<_>>()?;
    let rates = Spread::of(&rates);
    println!("scheduling inside the host: {rates} calls/s, of 16 bytes each, up to {MILLION}");
    let mut each = Vec::new();
    for _ in 0..bench.options.rounds {
        let server = wasm_serve_tcp(bench, "wasm-serve", guest(), WARM);
        let running = server.start(&Ask::get("/hello", "Hello World"))?;
        let schedule =
            Ask { path: format!("/many/{PER_REQUEST}/{HOUR_MS}/sixteen-bytes-xx"), ..Ask::default() };
        let tree = running.tree();
        let before = tree.resident_bytes()?;
        for _ in 0..MILLION / PER_REQUEST as u64 {
            running.ask_and_check(&schedule)?;
        }
        each.push((tree.resident_bytes()?.saturating_sub(before)) as f64 / MILLION as f64);
    }
    let each = Spread::of(&each);
    println!("resident memory for each pending call of 16 bytes: {each} bytes");
    let bars = vec![
        Bar::new("a million pending calls of 16 bytes: resident bytes each", Limit::AtMost(200.0), each),
        Bar::new("the same: calls scheduled per second inside the host", Limit::AtLeast(300_000.0), rates),
    ];
    Ok(Outcome { bars, ..Outcome::default() })
}

fn scheduled_per_second() -> Result<f64> {
    let deferred = Deferred::new(Limits {
        pending_max: MILLION,
        payload_bytes_max: 1 << 16,
        payload_bytes_total_max: 1 << 28,
        delay_max: u64::MAX,
    });
    let start = Instant::now();
    for number in 0..MILLION {
        // Delays in no order, as many guests would give them.
        let delay = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) + 1_000_000_000;
        let scheduled = deferred.schedule(delay, Box::from(*b"sixteen-bytes-xx"));
        ensure!(matches!(scheduled, Asked::Answered(Ok(_))), "a call was refused");
    }
    Ok(MILLION as f64 / start.elapsed().as_secs_f64())
}

/// Requests come at fixed times, at half of what the server can do, without and
/// with ten thousand calls that come due at one instant in between.
pub fn due_at_once(bench: &Bench) -> Result<Outcome> {
    let options = "--threads 2 --disable-logging --log-deferred --max-requests 0";
    let server = wasm_serve_tcp(bench, "wasm-serve", guest(), options);
    let hello = Ask::get("/hello", "Hello World");
    let (mut without, mut with, mut latest) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.options.rounds {
        eprintln!("round {} of {}", round + 1, bench.options.rounds);
        let running = server.start(&hello)?;
        let capacity = load::wrk(&bench.peers, &running, &hello, 64, bench.options.seconds)?;
        let rate = (capacity.requests_per_second() / 2.0) as u64;
        let open = || load::oha(&bench.peers, &running, &hello, 64, rate, 4);
        let quiet = open()?;
        let due = Instant::now() + Duration::from_secs(2);
        schedule(&running, due)?;
        let busy = open()?;
        let lateness = lateness_nanos(&running, DUE_AT_ONCE)?;
        println!(
            "{rate} requests/s: p99 {:.2} ms without, {:.2} ms with {DUE_AT_ONCE} due; the last started {:.0} ms after it was due",
            quiet.p99_micros / 1e3,
            busy.p99_micros / 1e3,
            lateness[lateness.len() - 1] as f64 / 1e6
        );
        without.push(quiet.p99_micros);
        with.push(busy.p99_micros);
        latest.push(lateness[lateness.len() - 1] as f64 / 1e9);
    }
    let bars = vec![
        Bar::new(
            "ten thousand due at once: request p99, of that without",
            Limit::AtMost(2.0),
            Spread::of_ratios(&with, &without),
        ),
        Bar::new(
            "ten thousand due at once: seconds until the last has started",
            Limit::AtMost(1.0),
            Spread::of(&latest),
        ),
    ];
    Ok(Outcome { bars, ..Outcome::default() })
}

/// Schedules calls that are all due at `due`, to the millisecond.
fn schedule(running: &Running, due: Instant) -> Result<()> {
    for _ in 0..DUE_AT_ONCE / PER_REQUEST {
        let delay = due.saturating_duration_since(Instant::now()).as_millis();
        let path = format!("/many/{PER_REQUEST}/{delay}/count");
        running.ask_and_check(&Ask { path, body: vec![], answer: None, ..Ask::default() })?;
    }
    Ok(())
}

pub fn lateness_when_idle(bench: &Bench) -> Result<Outcome> {
    const CALLS: usize = 500;
    let options = "--threads 2 --disable-logging --log-deferred --max-requests 0";
    let mut p99 = Vec::new();
    for _ in 0..bench.options.rounds {
        let server = wasm_serve_tcp(bench, "wasm-serve", guest(), options);
        let running = server.start(&Ask::get("/hello", "Hello World"))?;
        for number in 0..CALLS {
            // A prime step: they come due one by one, and not on a tick.
            let delay = 500_000_000 + number * 3_999_971;
            let path = format!("/delay/{delay}/count");
            running.ask_and_check(&Ask { path, body: vec![], answer: None, ..Ask::default() })?;
        }
        let lateness = lateness_nanos(&running, CALLS)?;
        let at = |percent: usize| lateness[(CALLS - 1) * percent / 100] as f64 / 1e6;
        println!(
            "lateness of {CALLS} calls: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
            at(50),
            at(99),
            at(100)
        );
        p99.push(at(99));
    }
    let bars = vec![Bar::new("lateness when idle: p99 in ms", Limit::AtMost(2.0), Spread::of(&p99))];
    Ok(Outcome { bars, ..Outcome::default() })
}

/// How late each of `count` calls was, in order, once all have run. That one was
/// early is an error.
pub fn lateness_nanos(running: &Running, count: usize) -> Result<Vec<u64>> {
    let lines = running.wait_for_lines("deferred id=", count)?;
    let field = |line: &str, name: &str| -> Result<u64> {
        let value =
            line.split(&format!(" {name}=")).nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        value.with_context(|| format!("no {name} in {line}"))
    };
    let mut lateness = Vec::with_capacity(count);
    for line in &lines {
        ensure!(line.ends_with("outcome=done"), "a call failed: {line}");
        let promised = field(line, "due")? - field(line, "scheduled")?;
        ensure!(field(line, "waited_ns")? >= promised, "a call was early: {line}");
        lateness.push(field(line, "lateness_ns")?);
    }
    ensure!(lateness.len() == count, "{} calls ran, not {count}", lateness.len());
    lateness.sort_unstable();
    Ok(lateness)
}
