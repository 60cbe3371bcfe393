//! What all instances of a server share, and what they are given.

use std::fs::File;
use std::sync::Arc;

use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::filesystem::{Dir, FsPerms, WasiFilesystemCtx};

use super::imports::files::{self, AtOnce, Places};
use super::imports::http::LeftOut;
use super::meta_variables::{self, ServerAddress};
use crate::config::Options;
use crate::deferred::Deferred;
use crate::memory::budget::Budget;
use crate::system::folders::Folder;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

/// What all instances of a server share.
pub struct Host {
    pub log: Log,
    pub stats: Arc<Stats>,
    pub deferred: Arc<Deferred>,
    /// Deferred calls that one guest call may schedule.
    pub deferred_per_call_max: u64,
    /// Bytes of one deferred call's payload.
    pub payload_bytes_max: u64,
    /// Memory of one instance.
    pub memory_bytes_max: usize,
    /// What the server may hold for one instance.
    pub host_bytes_max: u64,
    /// The memory of all instances.
    pub budget: Budget,
    /// The thread that runs a guest may wait for a disk.
    pub blocking_files: bool,
    pub left_out: Arc<LeftOut>,
    /// Where the server listens.
    pub address: ServerAddress,
    /// What guests see of the environment.
    pub environment: Vec<(String, String)>,
    /// The same without what could be taken for a request's own.
    pub environment_of_programs: Vec<(String, String)>,
    pub(super) arguments: Vec<String>,
    /// The folders, opened once: a fresh instance needs no system call for them.
    pub(super) files: WasiFilesystemCtx,
    /// Those of them in which paths may be resolved at once.
    pub local_folders: Vec<Arc<File>>,
    pub at_once: AtOnce,
    /// The same folders, in the order in which guests are given them.
    pub folders: Vec<Dir>,
    pub places: Arc<Places>,
}

impl Host {
    pub fn new(
        options: &Options,
        log: Log,
        stats: Arc<Stats>,
        deferred: Arc<Deferred>,
        budget: Budget,
        places: Arc<Places>,
    ) -> anyhow::Result<Host> {
        let mut files = open_folders(&options.folders(), options.blocking_files)?;
        let environment = options.guest_environment();
        let is_for_programs = |(name, _): &&(String, String)| !meta_variables::is_of_requests(name);
        Ok(Host {
            left_out: Arc::new(LeftOut::new(log.clone())),
            log,
            stats,
            deferred,
            deferred_per_call_max: options.deferred_per_call,
            payload_bytes_max: options.deferred_payload.0 as u64,
            memory_bytes_max: options.memory_limit.0,
            host_bytes_max: options.host_memory_limit.0 as u64,
            budget,
            blocking_files: options.blocking_files,
            address: ServerAddress::default(),
            environment_of_programs: environment.iter().filter(is_for_programs).cloned().collect(),
            environment,
            arguments: vec![options.guest_name()],
            local_folders: files::local_folders(&mut files)?,
            at_once: AtOnce::new(options.blocking_files)?,
            folders: files::folders(&mut files)?,
            places,
            files,
        })
    }
}

fn open_folders(folders: &[Folder], blocking: bool) -> anyhow::Result<WasiFilesystemCtx> {
    let mut builder = WasiCtx::builder();
    builder.allow_blocking_current_thread(blocking);
    for folder in folders {
        let perms = if folder.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        builder.preopened_dir(&folder.host, &folder.guest, perms)?;
    }
    Ok(builder.build().filesystem().clone())
}
