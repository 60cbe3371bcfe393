//! The article's run: `ab -n 10000 -c 100` against its two programs, the one that
//! reads a file before it answers and the one that reads it five seconds after.
//! It checks that nothing is lost and nothing early, and prints what it cost.
//!
//! `cargo bench --bench article`, with `ab` of Apache's tools installed.
#![allow(unreachable_pub, reason = "a program has no outside")]
#![allow(clippy::disallowed_methods, reason = "it is started by what the environment names")]

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use std::collections::HashMap;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use support::server::{Server, setup};
use support::{guest, root};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 100;
const RUNS: usize = 3;
/// Lines of `numbers.txt`.
const LINES: usize = 10;
const DELAY_NANOS: u64 = 5_000_000_000;

/// What the runs against one program gave.
struct Runs {
    requests_per_second: Vec<f64>,
    /// Resident memory after each run, when nothing was pending any more.
    bytes_after: Vec<u64>,
    bytes_peak: u64,
    /// From the due time of each deferred call to its start, in order.
    lateness_nanos: Vec<u64>,
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("article: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let blocking = run("blocking")?;
    let deferred = run("deferred")?;
    let (first, third) = (deferred.bytes_after[0], deferred.bytes_after[RUNS - 1]);
    ensure!(
        third as f64 <= first as f64 * 1.1,
        "resident memory grew from {first} bytes after the first run to {third} after the third"
    );
    let (blocked, deferring) = (median(&blocking.requests_per_second), median(&deferred.requests_per_second));
    println!("ab -n {REQUESTS} -c {CONNECTIONS}, --cores 2, {RUNS} runs each, nothing lost, nothing early");
    println!("blocking   {}", blocking.line());
    println!("deferred   {}", deferred.line());
    println!("deferred / blocking: {:.2} of the requests/s (medians)", deferring / blocked);
    let late = |percent: usize| deferred.lateness_nanos[(deferred.lateness_nanos.len() - 1) * percent / 100];
    println!(
        "lateness: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        late(50) as f64 / 1e6,
        late(99) as f64 / 1e6,
        late(100) as f64 / 1e6
    );
    Ok(())
}

fn run(program: &str) -> Result<Runs> {
    let numbers = root().join("guests/rust/numbers");
    let start =
        || setup(guest(program)).dir(&numbers).options("--cores 2 --log-deferred --log-verbatim").start();
    // The first start compiles the guest; what is measured begins with the cache.
    ensure!(start().stop().status.success(), "the server did not stop cleanly");
    let server = start();
    let mut runs =
        Runs { requests_per_second: vec![], bytes_after: vec![], bytes_peak: 0, lateness_nanos: vec![] };
    for number in 1..=RUNS {
        eprintln!("{program}: run {number} of {RUNS}");
        runs.requests_per_second.push(load(&server)?);
        let is_deferred = program == "deferred";
        if is_deferred {
            server.wait_for_figure("/deferred/done", (number * REQUESTS) as u64);
        }
        server.wait_for_figure("/cores/busy", 0);
        runs.bytes_after.push(server.memory_bytes("VmRSS"));
    }
    runs.bytes_peak = server.memory_bytes("VmHWM");
    let ended = server.stop();
    ensure!(ended.status.success(), "the server did not stop cleanly");
    runs.lateness_nanos = check_log(&ended.log, program)?;
    Ok(runs)
}

/// One load. Gives the requests per second.
fn load(server: &Server) -> Result<f64> {
    let url = format!("http://{}/", server.address);
    let output = Command::new("ab")
        .args(["-q", "-n", &REQUESTS.to_string(), "-c", &CONNECTIONS.to_string(), &url])
        .output()
        .context("`ab` cannot be started; install it, on Debian with `apt-get install apache2-utils`")?;
    let report = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "ab failed: {}", String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| -> Option<f64> {
        let line = report.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    ensure!(value("Complete requests:") == Some(REQUESTS as f64), "not all were answered:\n{report}");
    ensure!(value("Failed requests:") == Some(0.0), "some failed:\n{report}");
    ensure!(value("Non-2xx responses:").is_none(), "some were errors:\n{report}");
    value("Requests per second:").context("ab says no requests per second")
}

/// Checks that each line stands in the log once for each request, whole, and that
/// no deferred call was early. Gives how late they were.
fn check_log(log: &str, program: &str) -> Result<Vec<u64>> {
    let expected = (RUNS * REQUESTS) as u64;
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut lateness = Vec::new();
    for line in log.lines() {
        if line.starts_with("deferred ") {
            let waited = field(line, "waited_ns").with_context(|| line.to_owned())?;
            ensure!(waited >= DELAY_NANOS, "a call was early: {line}");
            ensure!(line.ends_with("outcome=done"), "a call failed: {line}");
            lateness.push(field(line, "lateness_ns").with_context(|| line.to_owned())?);
        } else if !line.starts_with("127.0.0.1 - - [") && !line.contains(" stopping: ") {
            *counts.entry(line).or_default() += 1;
        }
    }
    for k in 0..LINES {
        let line = format!("{k}:{}", k + 1);
        let count = counts.remove(line.as_str()).unwrap_or(0);
        ensure!(
            count == expected,
            "{program}: the line {line} stands {count} times in the log, not {expected}"
        );
    }
    ensure!(counts.is_empty(), "{program}: lines that nobody wrote: {counts:?}");
    let calls = if program == "deferred" { expected } else { 0 };
    ensure!(lateness.len() as u64 == calls, "{} deferred calls ran, not {calls}", lateness.len());
    lateness.sort_unstable();
    Ok(lateness)
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.split(&format!(" {name}=")).nth(1)?.split(' ').next()?.parse().ok()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Runs {
    fn line(&self) -> String {
        let rates: Vec<String> = self.requests_per_second.iter().map(|rate| format!("{rate:.0}")).collect();
        let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / (1 << 20) as f64);
        let after: Vec<String> = self.bytes_after.iter().map(|bytes| mebibytes(*bytes)).collect();
        format!(
            "{} requests/s; memory after each run {} MiB, at its peak {} MiB",
            rates.join(", "),
            after.join(", "),
            mebibytes(self.bytes_peak)
        )
    }
}
