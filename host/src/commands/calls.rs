//! `wasm-serve calls`: deferred calls in a store, seen and handled while servers use it.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::config::{Calls, CallsTask};
use crate::deferred::TimerId;
use crate::deferred::handled::{Listed, State};
use crate::deferred::sqlite::Sqlite;
use crate::terminal::escape;

/// Does what was asked for, and tells it on standard output.
pub(super) fn run(options: &Calls) -> Result<ExitCode> {
    let file = options.file().context("a store is named")?;
    let opened = || Sqlite::open_existing(file, options.deferred_queue.as_deref());
    let mut store = opened().with_context(|| format!("--deferred-store sqlite:{}", file.display()))?;
    let told = match options.task {
        CallsTask::List { set_aside, max } => list(&store.list(set_aside, max)?, options.json),
        CallsTask::Show { id } => {
            let (call, payload) = store.show(id)?.with_context(|| no_call(id))?;
            show(&call, &payload, options.json)
        }
        CallsTask::Cancel { id } => {
            if !store.remove(id)? {
                bail!("{}, or a server has it, or it was set aside", no_call(id));
            }
            done("cancelled", 1, options.json)
        }
        CallsTask::Retry { id, .. } => match (store.retry(id)?, id) {
            (0, Some(id)) => bail!("no call {id} was set aside"),
            (calls, _) => done("run again", calls, options.json),
        },
        CallsTask::Purge => done("removed", store.purge()?, options.json),
    };
    // Who reads no further has seen enough.
    let _ = std::io::stdout().write_all(told.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn no_call(id: TimerId) -> String {
    format!("there is no call {id}")
}

fn done(what: &str, calls: u64, as_json: bool) -> String {
    match as_json {
        true => format!("{}\n", json!({ "done": what, "calls": calls })),
        false => format!("{calls} {what}\n"),
    }
}

fn state(call: &Listed) -> &'static str {
    match call.state {
        State::Waiting => "waiting",
        State::Claimed => "claimed",
        State::SetAside => "set aside",
    }
}

fn list(calls: &[Listed], as_json: bool) -> String {
    if as_json {
        return calls.iter().map(|call| format!("{}\n", value(call))).collect();
    }
    let mut text =
        format!("{:>10}  {:<9}  {:>4}  {:<24}  {:>8}  error\n", "id", "state", "runs", "due", "bytes");
    for call in calls {
        let error = call.error.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "{:>10}  {:<9}  {:>4}  {:<24}  {:>8}  {}",
            call.id,
            state(call),
            call.attempts,
            time(call.due),
            call.payload_bytes,
            escape::text(error)
        );
    }
    text
}

fn show(call: &Listed, payload: &[u8], as_json: bool) -> String {
    let text = String::from_utf8_lossy(payload);
    if as_json {
        let mut value = value(call);
        value["payload"] = match std::str::from_utf8(payload) {
            Ok(text) => json!(text),
            Err(_) => json!(payload),
        };
        return format!("{value}\n");
    }
    let rows = [
        ("id", call.id.to_string()),
        ("state", state(call).to_owned()),
        ("runs", call.attempts.to_string()),
        ("scheduled", time(call.scheduled)),
        ("due", time(call.due)),
        ("error", escape::text(call.error.as_deref().unwrap_or("none"))),
        ("payload", format!("{} bytes: {}", payload.len(), escape::text(&text))),
    ];
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

fn value(call: &Listed) -> Value {
    json!({
        "id": call.id,
        "state": state(call),
        "attempts": call.attempts,
        "scheduled_at": call.scheduled,
        "due_at": call.due,
        "payload_bytes": call.payload_bytes,
        "error": call.error,
    })
}

/// As in the log.
fn time(nanos: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(nanos);
    humantime::format_rfc3339_millis(time).to_string()
}
