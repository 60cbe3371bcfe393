//! The load generators, and what they say: wrk for a closed loop (each connection
//! asks again when it has its answer), ab for the article's run, oha for an open
//! loop (requests at fixed times, whatever became of those before).

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::peers::{Peers, bounded};
use crate::running::{Ask, Running};
use crate::support::root;

/// What a load generator measured.
pub struct Load {
    pub requests: u64,
    pub seconds: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub p999_micros: f64,
}

impl Load {
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// Loads by wrk with one thread. Any error, or status from 400 on, is an error; the
/// body is looked at before and after.
pub fn wrk(peers: &Peers, running: &Running, ask: &Ask, connections: usize, seconds: u32) -> Result<Load> {
    running.ask_and_check(ask)?;
    let script = root().join("host/benches/peers/wrk.lua");
    let mut command = peers.debian_program("wrk");
    command
        .args(["-t1", "--timeout", "30s", "-d", &seconds.to_string(), "-c", &connections.to_string(), "-s"])
        .arg(script);
    for field in ask.fields.lines() {
        command.args(["-H", field]);
    }
    command.args([&url(running.address, &ask.path), "--", &ask.body.len().to_string()]);
    let printed = printed(command)?;
    let line = printed.lines().find(|line| line.starts_with('{')).context("wrk prints no figures")?;
    let figures: Value = serde_json::from_str(line)?;
    let errors = ["sockets", "statuses", "timeouts"].map(|name| figures[name].as_u64().unwrap_or(1));
    ensure!(errors == [0; 3], "requests failed under load: {line}");
    running.ask_and_check(ask)?;
    let number = |name: &str| figures[name].as_f64().with_context(|| format!("wrk says no {name}: {line}"));
    Ok(Load {
        requests: number("requests")? as u64,
        seconds: number("micros")? / 1e6,
        p50_micros: number("p50")?,
        p99_micros: number("p99")?,
        p999_micros: number("p999")?,
    })
}

/// Loads by ab, a connection for each request, and gives the requests per second.
pub fn ab(peers: &Peers, address: SocketAddr, requests: usize, connections: usize) -> Result<f64> {
    let mut command = peers.debian_program("ab");
    command.args(["-q", "-n", &requests.to_string(), "-c", &connections.to_string(), &url(address, "/")]);
    let report = printed(command)?;
    let value = |name: &str| -> Option<f64> {
        let line = report.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    ensure!(value("Complete requests:") == Some(requests as f64), "not all were answered:\n{report}");
    ensure!(value("Failed requests:") == Some(0.0), "some failed:\n{report}");
    ensure!(value("Non-2xx responses:").is_none(), "some were errors:\n{report}");
    value("Requests per second:").context("ab says no requests per second")
}

/// Loads by oha with so many requests a second, whether or not those before are
/// answered. An error, or a status other than 200, is an error.
pub fn oha(
    peers: &Peers,
    running: &Running,
    ask: &Ask,
    connections: usize,
    rate: u64,
    seconds: u32,
) -> Result<Load> {
    let mut command = bounded(peers.program("oha"));
    command.args(["--no-tui", "--output-format", "json", "--latency-correction"]);
    command.args(["-q", &rate.to_string(), "-z", &format!("{seconds}s"), "-c", &connections.to_string()]);
    command.arg(url(running.address, &ask.path));
    let printed = printed(command)?;
    let figures: Value = serde_json::from_str(&printed).with_context(|| printed.clone())?;
    let number = |path: &str| {
        let value = figures.pointer(path).and_then(Value::as_f64);
        value.with_context(|| format!("oha says no {path}: {printed}"))
    };
    let answered = number("/statusCodeDistribution/200")?;
    let statuses = figures["statusCodeDistribution"].as_object().map_or(0, serde_json::Map::len);
    ensure!(statuses == 1, "some answers were errors: {}", figures["statusCodeDistribution"]);
    // At its end, oha gives up the requests under way.
    for (error, count) in figures["errorDistribution"].as_object().into_iter().flatten() {
        ensure!(error.contains("deadline"), "requests failed: {error}: {count}");
    }
    Ok(Load {
        requests: answered as u64,
        seconds: number("/summary/total")?,
        p50_micros: number("/latencyPercentiles/p50")? * 1e6,
        p99_micros: number("/latencyPercentiles/p99")? * 1e6,
        p999_micros: number("/latencyPercentiles/p99.9")? * 1e6,
    })
}

/// What a command prints, if it succeeds.
fn printed(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {errors}{printed}");
    Ok(printed)
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}
