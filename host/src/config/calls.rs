//! What is asked of the calls in a store.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use super::deferred::Place;

/// Deferred calls in a store, to be seen and handled.
#[derive(Args, Debug)]
pub struct Calls {
    /// The store: sqlite:FILE. Servers may be using it.
    #[arg(long, value_name = "STORE", global = true, default_value_t = Place::Memory, hide_default_value = true)]
    deferred_store: Place,

    /// The queue in it. It need not be named if there is one alone.
    #[arg(long, value_name = "NAME", global = true)]
    pub deferred_queue: Option<String>,

    /// Write JSON.
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub task: CallsTask,
}

/// What is done with them.
#[derive(Subcommand, Debug)]
pub enum CallsTask {
    /// List calls, the oldest first.
    List {
        /// Only those that have failed for the last time.
        #[arg(long)]
        set_aside: bool,
        /// No more than so many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        max: usize,
    },
    /// Show one, with its payload and its last error.
    Show { id: u64 },
    /// Remove one that no server has taken.
    Cancel { id: u64 },
    /// Let one run again, or all, that have failed for the last time.
    Retry {
        #[arg(required_unless_present = "all_failed", conflicts_with = "all_failed")]
        id: Option<u64>,
        #[arg(long)]
        all_failed: bool,
    },
    /// Remove all that have failed for the last time.
    Purge,
}

impl Calls {
    pub fn check(&self) -> Result<()> {
        ensure!(self.file().is_some(), "--deferred-store sqlite:FILE is missing");
        Ok(())
    }

    /// The store's file.
    pub fn file(&self) -> Option<&Path> {
        self.deferred_store.file()
    }
}
