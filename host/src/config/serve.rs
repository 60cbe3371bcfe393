//! The settings of a server: options that were checked, and what its parts have of them.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use super::{machine, values};
use crate::connection;
use crate::connection::activity::Patience;
use crate::connection::client::TrustedProxy;
use crate::connection::listen::Sockets;
use crate::deferred::Deferred;
use crate::dispatch;
use crate::dispatch::clients::Bounds;
use crate::guest::compiling;
use crate::keyvalue::{Grant, Stores};
use crate::named_values::NamedValues;
use crate::outbound::Outbound;
use crate::outbound::record::Book;
use crate::outbound::tls::Trust;
use crate::program::Reuse;
use crate::program::engine::{ADDRESS_SPACE_BYTES, Room};
use crate::program::loader::Source;
use crate::request::body;
use crate::request::callback;
use crate::request::{service, unsent};
use crate::sandbox::host;
use crate::system::folders::Folder;
use crate::telemetry::log::{GuestLines, Log};
use crate::telemetry::stats::Stats;

/// What a server is given, of options that were checked.
#[derive(Debug)]
pub struct Settings {
    options: Options,
    source: Source,
    threads: NonZeroU32,
    stores: Vec<Grant>,
    named_values: Arc<NamedValues>,
    /// Once it was needed.
    trust: OnceLock<Trust>,
}

impl Settings {
    /// Of options that were checked, and what was read for them.
    pub(super) fn of(options: Options, stores: Vec<Grant>, named_values: NamedValues) -> Settings {
        let source = source(&options);
        let threads = options.threads();
        let (named_values, trust) = (Arc::new(named_values), OnceLock::new());
        Settings { options, source, threads, stores, named_values, trust }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// What is to be the guest.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where what is made of guests is kept; none if the user has no such folder.
    pub fn cache(&self) -> Option<PathBuf> {
        self.options.cache.folder()
    }

    /// Whether a component is made of a Python file.
    pub fn is_python(&self) -> bool {
        matches!(self.source, Source::Python(..))
    }

    /// Where it listens.
    pub fn sockets(&self) -> Sockets {
        self.options.sockets()
    }

    /// The file that says where it serves.
    pub fn address_file(&self) -> Option<&Path> {
        self.options.print_address.as_deref()
    }

    /// Where the service manager that started this process wants to be told of its state.
    pub fn service_manager(&self) -> Option<OsString> {
        std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
    }

    /// Threads that run guests.
    pub fn threads(&self) -> NonZeroU32 {
        self.threads
    }

    pub fn cores(&self) -> u32 {
        self.options.cores.get()
    }

    /// Folders that were named for the guest.
    pub fn folders_named(&self) -> usize {
        self.options.dir.len()
    }

    /// What guests are given. The file name without its folder is a program's name.
    pub fn grants(&self) -> host::Grants {
        let name = self.source.file().file_name().unwrap_or("guest".as_ref());
        host::Grants {
            folders: self.folders(),
            environment: values::variables(&self.options.env),
            name: name.to_string_lossy().into_owned(),
            blocking_files: self.options.blocking_files,
        }
    }

    /// Sockets that the process may need for what guests may reach.
    pub fn outbound_sockets(&self) -> usize {
        let options = &self.options.outbound;
        if options.grants().is_empty() { 0 } else { Outbound::sockets_max(options.limits()) }
    }

    /// What guests may reach of the network.
    pub(crate) fn outbound(&self, log: &Log, stats: &Arc<Stats>) -> Result<Outbound> {
        let options = &self.options.outbound;
        let trust = match options.grants().is_empty() {
            true => None,
            false => Some(self.trust(log)?),
        };
        let book = Book::new(log.clone(), stats.clone(), self.options.log_outbound);
        Ok(Outbound::new(options.grants(), options.limits(), trust, book))
    }

    /// The authorities are read once for all that is reached by TLS.
    fn trust(&self, log: &Log) -> Result<Trust> {
        if let Some(trust) = self.trust.get() {
            return Ok(trust.clone());
        }
        let options = &self.options.outbound;
        let trust = Trust::new(&options.ca_file, &options.client_certificate, log)?;
        Ok(self.trust.get_or_init(|| trust).clone())
    }

    /// The key-value stores that guests may open.
    pub(super) fn stores(&self) -> &[Grant] {
        &self.stores
    }

    /// The same, ready to be opened.
    pub(crate) fn keyvalue(&self, log: &Log) -> Result<Stores> {
        let tls = match self.stores.iter().any(|store| store.place.wants_tls()) {
            true => Some(self.trust(log)?.without_protocols()),
            false => None,
        };
        Ok(Stores::new(&self.stores, self.options.keyvalue.limits(), tls, log.clone()))
    }

    /// Values that guests get by name.
    pub(crate) fn named_values(&self) -> &Arc<NamedValues> {
        &self.named_values
    }

    /// Users of uWSGI expect a Python application to find its files.
    fn folders(&self) -> Vec<Folder> {
        if self.is_python() && self.options.dir.is_empty() {
            return vec![Folder { host: PathBuf::from("."), guest: "/".to_owned(), read_only: true }];
        }
        self.options.dir.clone()
    }

    /// What one instance may take.
    pub fn host_limits(&self) -> host::Limits {
        host::Limits {
            memory_bytes_max: self.options.memory_limit.0,
            host_bytes_max: self.options.host_memory_limit.0 as u64,
            deferred_per_call_max: self.options.deferred.per_call(),
            payload_bytes_max: self.options.deferred.payload_bytes_max() as u64,
        }
    }

    /// How many instances there may be, and what compiling the guest may take.
    pub fn room(&self) -> Room {
        Room {
            cores: self.cores(),
            programs: self.threads.get(),
            memory_bytes_max: self.options.memory_limit.0,
            address_space_bytes: machine::address_space_bytes()
                .map_or(ADDRESS_SPACE_BYTES, |space| space / 2),
            compiling: compiling::Limits {
                time_max: self.options.compile_timeout.0,
                memory_bytes_max: self.options.compile_memory.0 as u64,
            },
            reuse: Reuse { calls_max: self.calls_per_instance(), bytes_max: self.kept_memory_bytes() },
        }
    }

    /// Memory of all instances. What is left by default is for the server itself, for what
    /// the system keeps of files and sockets, and for other programs.
    pub fn memory_total_bytes(&self) -> Result<u64> {
        if let Some(total) = self.options.memory_total {
            return Ok(total.0 as u64);
        }
        let memory = machine::memory_bytes();
        let memory = memory.context("how much memory there is cannot be seen; say --memory-total")?;
        let part = memory / 2;
        // The program and its threads are there, too, and reserve more than they use.
        Ok(machine::address_space_bytes().map_or(part, |space| part.min(space / 4)))
    }

    /// Files and folders that one instance may have open.
    pub fn open_files(&self) -> usize {
        self.options.open_files
    }

    /// The same for all instances, if the system allows it.
    pub fn open_files_total(&self) -> usize {
        self.options.open_files_total
    }

    pub fn dispatch_limits(&self) -> dispatch::Limits {
        dispatch::Limits {
            cores: self.cores(),
            workers: self.threads.get() as usize,
            queue_max: self.options.queue,
            queue_time_max: self.options.queue_timeout.0,
            deferred_share: self.options.deferred.share(),
        }
    }

    pub fn request_limits(&self) -> service::Limits {
        let options = &self.options;
        service::Limits {
            head_fields_max: options.head_fields,
            body: body::Limits { bytes_max: options.body_limit.0 as u64, wait_max: options.body_timeout.0 },
            time_max: options.harakiri.0,
            tail_time_max: options.tail_timeout.0,
            close_time_max: options.close_timeout.0,
            room_time_max: options.queue_timeout.0,
        }
    }

    /// Calls that an instance serves; 0 is no limit. An interpreter that starts for
    /// each call costs more than most users would pay.
    pub fn calls_per_instance(&self) -> u32 {
        self.options.max_requests.unwrap_or(if self.is_python() { 0 } else { 1 })
    }

    /// What an instance may take and yet serve further calls.
    fn kept_memory_bytes(&self) -> u64 {
        let options = &self.options;
        options.kept_memory.map_or(options.memory_limit.0 as u64 / 4 * 3, |kept| kept.0 as u64)
    }

    /// How long an instance waits for a further call.
    pub fn kept_time(&self) -> Duration {
        self.options.kept_time.0
    }

    /// Room for what slow clients have not taken yet.
    pub fn unsent_room(&self) -> Arc<unsent::Room> {
        unsent::Room::new(self.options.response_buffer.0, self.options.response_memory.0)
    }

    /// Where deferred calls are until they run.
    pub(crate) fn deferred(&self, log: &Log) -> Result<Deferred> {
        self.options.deferred.open(self.source.file(), self.cores() as usize, log)
    }

    pub fn callback_limits(&self) -> callback::Limits {
        callback::Limits { time_max: self.options.deferred.timeout(), lines: self.options.log_deferred }
    }

    pub fn connection_limits(&self) -> connection::Limits {
        connection::Limits {
            head_bytes_max: self.options.head_limit.0,
            head_fields_max: self.options.head_fields,
            linger_bytes_max: self.options.linger_limit.0,
            patience: Patience {
                idle: self.options.idle_timeout.0,
                head: self.options.head_timeout.0,
                write: self.options.write_timeout.0,
                linger: self.options.linger_timeout.0,
                request: self.request_time_max(),
            },
        }
    }

    /// Connections that are served at once: at most as many as a semaphore has places, and
    /// as a u32 can say.
    pub fn connections(&self) -> u32 {
        self.options.connections as u32
    }

    /// What one client may have. None if that is as much as there is. By default an eighth
    /// is left for others, which a single client that may have all would hardly miss.
    pub fn client_bounds(&self) -> Option<Bounds> {
        let bound = |asked: Option<u32>, all: u32| match asked.unwrap_or(all - all / 8) {
            0 => u32::MAX,
            bound if bound >= all => u32::MAX,
            bound => bound,
        };
        let (connections, cores) = (self.connections(), self.cores());
        let connections_max = bound(self.options.connections_per_client, connections);
        let cores_max = bound(self.options.cores_per_client, cores);
        let waiting = (self.options.queue as u64).saturating_mul(cores_max.into()).div_ceil(cores.into());
        let waiting_max = u32::try_from(waiting).unwrap_or(u32::MAX);
        let is_bounded = connections_max < u32::MAX || cores_max < u32::MAX;
        is_bounded.then_some(Bounds { connections_max, cores_max, waiting_max })
    }

    pub fn trusted_proxies(&self) -> &[TrustedProxy] {
        &self.options.trusted_proxy
    }

    /// The time for a request, from its head to the end of its response, if each
    /// part of it takes as long as it may.
    pub fn request_time_max(&self) -> Duration {
        self.options.queue_timeout.0 + self.options.harakiri.0 + self.options.write_timeout.0
    }

    /// In which deferred calls may come due after it was asked to stop.
    pub fn grace(&self) -> Duration {
        self.options.grace.0
    }

    /// The file of the log; none for standard error.
    pub fn log_file(&self) -> Option<&Path> {
        self.options.logto.as_deref()
    }

    /// Whether the log has a line for each request.
    pub fn logs_requests(&self) -> bool {
        !self.options.disable_logging
    }

    /// How what guests print is written to the log.
    pub fn guest_lines(&self) -> GuestLines {
        GuestLines {
            verbatim: self.options.log_verbatim,
            rate: self.options.log_rate.0 as u64,
            burst: self.options.log_burst.0 as u64,
        }
    }
}

fn source(options: &Options) -> Source {
    match (&options.guest, &options.wsgi_file) {
        (_, Some(file)) => {
            let application = options.python.application(file, values::variables(&options.env));
            Source::Python(application, options.python.tools(&options.cache))
        }
        (Some(file), None) => Source::Component(file.clone()),
        (None, None) => unreachable!("the command line is not taken without one of the two"),
    }
}
