//! What all instances of a server share, and what they are given.

use std::fs::File;
use std::sync::Arc;

use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::filesystem::{Dir, FsPerms, WasiFilesystemCtx};
use wasmtime_wasi_http::WasiBody;

use super::files::disk::AtOnce;
use super::files::lookup;
use super::files::places::Places;
use super::left_out::LeftOut;
use super::meta_variables::{self, ServerAddress};
use crate::deferred::Deferred;
use crate::keyvalue::Stores;
use crate::memory::budget::Budget;
use crate::memory::memories::Neighbours;
use crate::named_values::NamedValues;
use crate::outbound::Outbound;
use crate::outbound::http::HttpClient;
use crate::system::folders::Folder;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

/// What guests are given.
pub struct Grants {
    pub folders: Vec<Folder>,
    /// Variables of the environment.
    pub environment: Vec<(String, String)>,
    /// What a program is called by, as its first argument.
    pub name: String,
    /// The thread that runs a guest may wait for a disk.
    pub blocking_files: bool,
}

/// What one instance may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub memory_bytes_max: usize,
    /// What the server may hold for it.
    pub host_bytes_max: u64,
    /// Deferred calls that one guest call may schedule.
    pub deferred_per_call_max: u64,
    /// Bytes of one deferred call's payload.
    pub payload_bytes_max: u64,
}

/// What the hosts of all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub log: Log,
    pub stats: Arc<Stats>,
    pub deferred: Arc<Deferred>,
    /// The memory of all instances.
    pub budget: Budget,
    pub memories: Neighbours,
    pub outbound: Arc<Outbound>,
    pub stores: Arc<Stores>,
    pub named_values: Arc<NamedValues>,
    /// What guests may have open.
    pub places: Arc<Places>,
}

/// What all instances of a worker share.
pub(crate) struct Host {
    pub(crate) log: Log,
    pub(crate) stats: Arc<Stats>,
    pub(super) deferred: Arc<Deferred>,
    pub(super) deferred_per_call_max: u64,
    pub(super) payload_bytes_max: u64,
    pub(super) memory_bytes_max: usize,
    pub(crate) host_bytes_max: u64,
    pub(crate) budget: Budget,
    pub(crate) memories: Neighbours,
    pub(super) outbound: Arc<Outbound>,
    pub(super) stores: Arc<Stores>,
    pub(super) named_values: Arc<NamedValues>,
    /// None if nothing is granted.
    pub(super) http_client: Option<HttpClient<WasiBody>>,
    pub(super) blocking_files: bool,
    pub(crate) left_out: Arc<LeftOut>,
    /// Where the server listens.
    pub(crate) address: ServerAddress,
    /// What guests see of the environment.
    pub(crate) environment: Vec<(String, String)>,
    /// The same without what could be taken for a request's own.
    pub(crate) environment_of_programs: Vec<(String, String)>,
    pub(super) arguments: Vec<String>,
    /// The folders, opened once: a fresh instance needs no system call for them.
    pub(super) files: WasiFilesystemCtx,
    /// Those of them in which paths may be resolved at once.
    pub(super) local_folders: Vec<Arc<File>>,
    pub(super) at_once: AtOnce,
    /// The same folders, in the order in which guests are given them.
    pub(super) folders: Vec<Dir>,
    pub(super) places: Arc<Places>,
}

impl Host {
    /// Opens the folders.
    pub(crate) fn new(grants: &Grants, limits: Limits, shared: Shared) -> anyhow::Result<Host> {
        let Grants { folders, environment, name, blocking_files } = grants;
        let Shared { log, stats, deferred, budget, memories, outbound, stores, named_values, places } =
            shared;
        let mut files = open_folders(folders, *blocking_files)?;
        let is_for_programs = |(name, _): &&(String, String)| !meta_variables::is_of_requests(name);
        Ok(Host {
            left_out: Arc::new(LeftOut::new(log.clone())),
            log,
            stats,
            deferred,
            deferred_per_call_max: limits.deferred_per_call_max,
            payload_bytes_max: limits.payload_bytes_max,
            memory_bytes_max: limits.memory_bytes_max,
            host_bytes_max: limits.host_bytes_max,
            budget,
            memories,
            http_client: outbound.grants_anything().then(|| HttpClient::new(outbound.clone())),
            outbound,
            stores,
            named_values,
            blocking_files: *blocking_files,
            address: ServerAddress::default(),
            environment_of_programs: environment.iter().filter(is_for_programs).cloned().collect(),
            environment: environment.clone(),
            arguments: vec![name.clone()],
            local_folders: lookup::local_folders(&mut files)?,
            at_once: AtOnce::new(*blocking_files)?,
            folders: lookup::folders(&mut files)?,
            places,
            files,
        })
    }

    /// The host of a server that listens, which is the first to know its address.
    pub(crate) fn at(self, address: ServerAddress) -> Host {
        Host { address, ..self }
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
