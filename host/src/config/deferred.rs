//! The options of deferred calls.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::values::{Bytes, Seconds};
use crate::deferred::sqlite::Sqlite;
use crate::deferred::{self, Deferred, Limits, Retry};
use crate::telemetry::log::Log;

/// Calls that are taken from a store before they start: if this server ends, each of them has lost an
/// attempt, and others could have run them.
const READY_MAX: usize = 32;
/// Runs of a call that is kept in a store.
const ATTEMPTS: u32 = 5;

#[derive(Args, Debug)]
pub(super) struct DeferredOptions {
    /// Time for a deferred call, from taking a core.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Deadlines")]
    deferred_timeout: Seconds,

    /// Where deferred calls are until they run: `memory`, where they go with the server, or
    /// sqlite:FILE, where they outlive it. A call is written when `call-later` returns.
    #[arg(long, value_name = "STORE", default_value_t = Place::Memory, help_heading = "Deferred calls")]
    deferred_store: Place,

    /// The name of the queue in the store. Servers with the same name run each other's calls
    /// [default: the guest's file name without its ending].
    #[arg(long, value_name = "NAME", help_heading = "Deferred calls")]
    deferred_queue: Option<String>,

    /// Runs of a call in a store, with those that failed: after the last one it is set aside with
    /// its error.
    #[arg(long, value_name = "N", default_value_t = ATTEMPTS, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Deferred calls")]
    deferred_attempts: u32,

    /// After the first run that failed, the next one is so much later; this doubles with each,
    /// and some chance is added.
    #[arg(long, value_name = "SECONDS", default_value = "1", help_heading = "Deferred calls")]
    deferred_retry_delay: Seconds,

    /// It doubles up to this.
    #[arg(long, value_name = "SECONDS", default_value = "600", help_heading = "Deferred calls")]
    deferred_retry_delay_max: Seconds,

    /// How long calls are kept that were set aside.
    #[arg(long, value_name = "SECONDS", default_value = "2592000", help_heading = "Deferred calls")]
    deferred_keep: Seconds,

    /// After a server has ended in the middle of a call, the call waits so long for the next run.
    /// A server that lives extends this by itself.
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Deferred calls")]
    deferred_lease: Seconds,

    /// Deferred calls that may be pending at once.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = "Deferred calls")]
    deferred_pending: u64,

    /// Deferred calls that one guest call may schedule.
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Deferred calls")]
    deferred_per_call: u64,

    /// Payload of one deferred call, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "64K", help_heading = "Deferred calls")]
    deferred_payload: Bytes,

    /// Payloads of all pending deferred calls together, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "256M", help_heading = "Deferred calls")]
    deferred_memory: Bytes,

    /// The longest delay.
    #[arg(long, value_name = "SECONDS", default_value = "2592000", help_heading = "Deferred calls")]
    deferred_delay: Seconds,

    /// The part of the cores' turns that goes to deferred calls while some are due.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=99), help_heading = "Deferred calls")]
    deferred_share: u32,
}

/// Where deferred calls are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    Sqlite(PathBuf),
}

impl Place {
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Place::Memory => None,
            Place::Sqlite(file) => Some(file),
        }
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Place> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Place::Memory),
            Some(("sqlite", file)) if !file.is_empty() => Ok(Place::Sqlite(file.into())),
            _ => bail!("expected `memory` or sqlite:FILE"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Memory => f.write_str("memory"),
            Place::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
        }
    }
}

impl DeferredOptions {
    pub(super) fn timeout(&self) -> Duration {
        self.deferred_timeout.0
    }

    pub(super) fn per_call(&self) -> u64 {
        self.deferred_per_call
    }

    pub(super) fn payload_bytes_max(&self) -> usize {
        self.deferred_payload.0
    }

    pub(super) fn share(&self) -> u32 {
        self.deferred_share
    }

    /// The store's file, if it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.deferred_store.file()
    }

    /// Opens the store. Its queue is that of the guest in this file, and so many cores run calls.
    pub(super) fn open(&self, guest: &Path, cores: usize, log: &Log) -> Result<Deferred> {
        let limits = Limits {
            pending_max: self.deferred_pending,
            payload_bytes_max: self.deferred_payload.0 as u64,
            payload_bytes_total_max: self.deferred_memory.0 as u64,
            delay_max: self.deferred_delay.0.as_nanos() as u64,
        };
        let Place::Sqlite(file) = &self.deferred_store else { return Ok(Deferred::new(limits)) };
        let named = || format!("--deferred-store sqlite:{}", file.display());
        let queue = self.queue(guest);
        let mut store = Sqlite::open(file, &queue).with_context(named)?;
        if self.deferred_queue.is_none() {
            for (other, calls) in store.other_queues().with_context(named)? {
                log.server(format_args!(
                    "{calls} deferred calls are in the queue {other}, and this server is for {queue}; --deferred-queue names another"
                ));
            }
        }
        let settings = deferred::Settings {
            limits,
            retry: Retry {
                attempts_max: self.deferred_attempts,
                delay_min: self.deferred_retry_delay.0,
                delay_max: self.deferred_retry_delay_max.0.max(self.deferred_retry_delay.0),
            },
            ready_max: cores.min(READY_MAX),
            lease: self.deferred_lease.0.max(Duration::from_secs(1)),
            keep: self.deferred_keep.0,
        };
        let log = log.clone();
        Ok(Deferred::stored(Box::new(store), settings, move |told| log.server(told))?)
    }

    pub(super) fn queue(&self, guest: &Path) -> String {
        let of_guest = || guest.file_stem().unwrap_or("guest".as_ref()).to_string_lossy().into_owned();
        self.deferred_queue.clone().unwrap_or_else(of_guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_written_as_it_is_shown() {
        for text in ["memory", "sqlite:calls.db", "sqlite:/var/lib/a:b"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["", "sqlite", "sqlite:", "mysql:x", "Memory"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
