//! What was asked for on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Compare wasm-serve with other servers.
#[derive(Parser)]
#[command(name = "peers")]
pub struct Options {
    /// Run only these scenarios
    pub names: Vec<String>,
    /// List the scenarios
    #[arg(long)]
    pub list: bool,
    /// Rounds over all servers of a scenario
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of each measurement; wrk knows whole seconds only
    #[arg(long, value_name = "S", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Draw the charts of the scenarios into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Leave out a peer that cannot be had here
    #[arg(long, value_name = "PEER")]
    pub without: Vec<Peer>,
    /// More options for every wasm-serve, written as on a command line
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    pub wasm_serve: String,

    /// Be the bare hyper server. The benchmark starts itself so.
    #[arg(long, hide = true)]
    pub bare: Option<Bare>,
    #[arg(long, hide = true, default_value = "0")]
    pub port: u16,
    /// `cargo bench` says so to every benchmark.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A server, or family of servers, to compare with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Peer {
    Wasmtime,
    Uwsgi,
    Go,
    Nginx,
    Gunicorn,
    Granian,
}

/// How the bare hyper server uses its threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Bare {
    /// One runtime that moves tasks between two threads.
    Shared,
    /// A runtime and a listener for each of two threads.
    PerThread,
}
