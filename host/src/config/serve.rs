//! What the parts of a server are given.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use super::{machine, values};
use crate::deferred;
use crate::dispatch::clients::Bounds;
use crate::guest::compiling;
use crate::program::guest::{self, Reuse, Room};
use crate::program::load::Source;
use crate::sandbox::host;
use crate::system::folders::Folder;
use crate::telemetry::log::GuestLines;

impl Options {
    /// The time for a request, from its head to the end of its response, if each
    /// part of it takes as long as it may.
    pub fn request_time_max(&self) -> Duration {
        self.queue_timeout.0 + self.harakiri.0 + self.write_timeout.0
    }

    /// Memory of all instances. What is left by default is for the server itself, for what
    /// the system keeps of files and sockets, and for other programs.
    pub fn memory_total_bytes(&self) -> Result<u64> {
        if let Some(total) = self.memory_total {
            return Ok(total.0 as u64);
        }
        let memory = machine::memory_bytes();
        let memory = memory.context("how much memory there is cannot be seen; say --memory-total")?;
        let part = memory / 2;
        // The program and its threads are there, too, and reserve more than they use.
        Ok(machine::address_space_bytes().map_or(part, |space| part.min(space / 4)))
    }

    /// What an instance may take and yet serve further calls.
    fn kept_memory_bytes(&self) -> u64 {
        self.kept_memory.map_or(self.memory_limit.0 as u64 / 4 * 3, |kept| kept.0 as u64)
    }

    /// Addresses for the memories of instances.
    pub fn address_space_bytes(&self) -> u64 {
        machine::address_space_bytes().map_or(guest::ADDRESS_SPACE_BYTES, |space| space / 2)
    }

    /// Threads that run guests.
    pub fn threads(&self) -> NonZeroU32 {
        self.threads.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
            NonZeroU32::new(cpus as u32).unwrap_or(NonZeroU32::MIN)
        })
    }

    /// Where the service manager that started this process wants to be told of its state.
    pub fn service_manager(&self) -> Option<OsString> {
        std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
    }

    /// The variables that the guest sees.
    pub fn guest_environment(&self) -> Vec<(String, String)> {
        values::variables(&self.env)
    }

    /// What compiling the guest may take.
    pub fn compiling_limits(&self) -> compiling::Limits {
        compiling::Limits { time_max: self.compile_timeout.0, memory_bytes_max: self.compile_memory.0 as u64 }
    }

    /// The limits of the queue of deferred calls.
    pub fn deferred_limits(&self) -> deferred::Limits {
        deferred::Limits {
            pending_max: self.deferred_pending,
            payload_bytes_max: self.deferred_payload.0 as u64,
            payload_bytes_total_max: self.deferred_memory.0 as u64,
            delay_max: self.deferred_delay.0.as_nanos() as u64,
        }
    }

    /// What one client may have. None if that is as much as there is. By default an eighth
    /// is left for others, which a single client that may have all would hardly miss.
    pub fn client_bounds(&self) -> Option<Bounds> {
        let bound = |asked: Option<u32>, all: u32| match asked.unwrap_or(all - all / 8) {
            0 => u32::MAX,
            bound if bound >= all => u32::MAX,
            bound => bound,
        };
        let (connections, cores) = (self.connections as u32, self.cores.get());
        let connections_max = bound(self.connections_per_client, connections);
        let cores_max = bound(self.cores_per_client, cores);
        let waiting = (self.queue as u64).saturating_mul(cores_max.into()).div_ceil(cores.into());
        let waiting_max = u32::try_from(waiting).unwrap_or(u32::MAX);
        let is_bounded = connections_max < u32::MAX || cores_max < u32::MAX;
        is_bounded.then_some(Bounds { connections_max, cores_max, waiting_max })
    }

    /// How what guests print is written to the log.
    pub fn guest_lines(&self) -> GuestLines {
        GuestLines {
            verbatim: self.log_verbatim,
            rate: self.log_rate.0 as u64,
            burst: self.log_burst.0 as u64,
        }
    }

    /// The folders that the guest sees. Users of uWSGI expect a Python application to
    /// find its files.
    pub fn folders(&self) -> Vec<Folder> {
        if self.wsgi_file.is_some() && self.dir.is_empty() {
            return vec![Folder { host: PathBuf::from("."), guest: "/".to_owned(), read_only: true }];
        }
        self.dir.clone()
    }

    /// Calls that an instance serves; 0 is no limit. An interpreter that starts for
    /// each call costs more than most users would pay.
    pub fn calls_per_instance(&self) -> u32 {
        self.max_requests.unwrap_or(if self.wsgi_file.is_some() { 0 } else { 1 })
    }

    /// What is to be the guest.
    pub fn source(&self) -> Source {
        match (&self.guest, &self.wsgi_file) {
            (_, Some(file)) => {
                let application = self.python.application(file, self.guest_environment());
                Source::Python(application, self.python.tools(&self.cache))
            }
            (Some(file), None) => Source::Component(file.clone()),
            (None, None) => unreachable!("the command line is not taken without one of the two"),
        }
    }

    /// What guests are given. The file name without its folder is a program's name.
    pub fn grants(&self) -> host::Grants {
        let source = self.source();
        let name = source.file().file_name().unwrap_or("guest".as_ref());
        host::Grants {
            folders: self.folders(),
            environment: self.guest_environment(),
            name: name.to_string_lossy().into_owned(),
            blocking_files: self.blocking_files,
        }
    }

    /// What one instance may take.
    pub fn host_limits(&self) -> host::Limits {
        host::Limits {
            memory_bytes_max: self.memory_limit.0,
            host_bytes_max: self.host_memory_limit.0 as u64,
            deferred_per_call_max: self.deferred_per_call,
            payload_bytes_max: self.deferred_payload.0 as u64,
        }
    }

    /// How many instances there may be.
    pub fn room(&self) -> Room {
        Room {
            cores: self.cores.get(),
            programs: self.threads().get(),
            memory_bytes_max: self.memory_limit.0,
            address_space_bytes: self.address_space_bytes(),
            compiling: self.compiling_limits(),
            reuse: Reuse { calls_max: self.calls_per_instance(), bytes_max: self.kept_memory_bytes() },
        }
    }
}
