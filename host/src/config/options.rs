//! The options of serving, as they are written on the command line.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::cache::CacheOptions;
use super::deferred::DeferredOptions;
use super::keyvalue::KeyvalueOptions;
use super::named_values::NamedValueOptions;
use super::outbound::OutboundOptions;
use super::python::PythonOptions;
use super::values::{self, Bytes, Seconds};
use crate::connection::address::{Address, Mode};
use crate::connection::client::TrustedProxy;
use crate::connection::listen::Sockets;
use crate::system::folders::Folder;

/// Unless another one is given.
pub(super) const MEMORY_LIMIT: &str = "128M";

/// How to serve.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").args(["guest", "wsgi_file"]).required(true)))]
pub struct Options {
    /// The guest: a component that exports `wasi:http` 0.2 or 0.3, or a program (a WASI
    /// command), which is served by CGI.
    #[arg(long, value_name = "FILE", help_heading = "What to serve")]
    pub(super) guest: Option<PathBuf>,

    /// The guest: a Python file with a WSGI application, of which a component is made
    /// first. It sees the current folder, read-only, unless --dir is given.
    #[arg(long, value_name = "FILE", help_heading = "What to serve")]
    pub(super) wsgi_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) python: PythonOptions,

    /// Where to listen: 127.0.0.1:9090, [::1]:9090, :9090 (every interface) or
    /// unix:PATH. Port 0 asks the system for a free port.
    #[arg(
        long,
        visible_alias = "addr",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        help_heading = "What to serve"
    )]
    pub(super) http_socket: Address,

    /// Permissions of the Unix sockets of --http-socket and --stats, octal [default: what the
    /// umask leaves; without a value 666].
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        default_missing_value = "666",
        help_heading = "What to serve"
    )]
    pub(super) chmod_socket: Option<Mode>,

    /// Let the guest see a folder, by default at its root `/`, where relative
    /// paths lead. Repeatable; `::ro` makes it read-only.
    #[arg(long, value_name = "HOST[::GUEST][::ro]", help_heading = "What to serve")]
    pub(crate) dir: Vec<Folder>,

    /// Make all of the guests' file calls in the worker's thread, not only those that
    /// need not wait. It is cheaper; but a call that the disk does not answer, or a
    /// named pipe, then holds up the worker's other clients, and no deadline ends it.
    #[arg(long, help_heading = "What to serve")]
    pub(super) blocking_files: bool,

    /// Let the guest see an environment variable; without a value, the server's
    /// own. Repeatable. A Python application sees it while it is imported, too; a program
    /// (CGI) has those of a request, such as HTTP_..., from requests alone.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::variable, help_heading = "What to serve")]
    pub(super) env: Vec<(String, String)>,

    #[command(flatten)]
    pub(super) named_values: NamedValueOptions,

    #[command(flatten)]
    pub(super) outbound: OutboundOptions,

    #[command(flatten)]
    pub(super) keyvalue: KeyvalueOptions,

    /// Guest calls (requests and deferred calls) under way at once, running or
    /// suspended.
    #[arg(long, value_name = "N", value_parser = values::count, default_value = "256", help_heading = "Cores")]
    pub(super) cores: NonZeroU32,

    /// Threads that run them [default: one for each CPU].
    #[arg(long, value_name = "N", value_parser = values::count, help_heading = "Cores")]
    pub(super) threads: Option<NonZeroU32>,

    /// Calls that an instance serves, one after the other, before a new one
    /// takes its place. 0 is no limit [default: 1; with --wsgi-file 0].
    #[arg(long, value_name = "N", help_heading = "Cores")]
    pub(super) max_requests: Option<u32>,

    /// Memory of one instance, in bytes; K, M and G multiply by 1024.
    #[arg(long, value_name = "BYTES", default_value = MEMORY_LIMIT, help_heading = "Cores")]
    pub(super) memory_limit: Bytes,

    /// What the server itself may hold for one instance, in bytes: header fields, bodies,
    /// buffers, tables, open files. A guest that makes it hold more is stopped.
    #[arg(long, value_name = "BYTES", default_value = "32M", help_heading = "Cores")]
    pub(super) host_memory_limit: Bytes,

    /// Memory of all instances together, in bytes, with what the server holds for them. A call
    /// that finds no room waits as for a core, and is then answered 503 [default: half of
    /// what the machine has, or the control group].
    #[arg(long, value_name = "BYTES", help_heading = "Cores")]
    pub(super) memory_total: Option<Bytes>,

    /// An instance that takes more than this serves no further call, in bytes [default: three
    /// quarters of --memory-limit].
    #[arg(long, value_name = "BYTES", help_heading = "Cores")]
    pub(super) kept_memory: Option<Bytes>,

    /// How long an instance waits for a further call before it ends.
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Cores")]
    pub(super) kept_time: Seconds,

    /// Files, folders and sockets that one instance may have open; one more is an error for
    /// the guest.
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Cores")]
    pub(super) open_files: usize,

    /// Files, folders and sockets that all guests together may have open. Where the system allows
    /// less (`ulimit -n`), half of what connections do not need for certain.
    #[arg(long, value_name = "N", default_value_t = 8192, help_heading = "Cores")]
    pub(super) open_files_total: usize,

    /// Requests that wait for a core; one more is answered 503.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Cores")]
    pub(super) queue: usize,

    /// How long a request waits for a core before it is answered 503.
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Cores")]
    pub(super) queue_timeout: Seconds,

    /// Time for a request, from taking a core until the response is complete.
    #[arg(
        long,
        visible_alias = "request-timeout",
        value_name = "SECONDS",
        default_value = "30",
        help_heading = "Deadlines"
    )]
    pub(super) harakiri: Seconds,

    /// Time for guest work that goes on after the response is complete.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Deadlines")]
    pub(super) tail_timeout: Seconds,

    /// Time for a Python application whose client has left, or whose response broke off: it
    /// learns of it when it next sends or reads, and closes what it has opened (PEP 3333).
    /// 0 ends it at once. One that has SQLite locked has at most 0.1.
    #[arg(long, value_name = "SECONDS", default_value = "1", help_heading = "Deadlines")]
    pub(super) close_timeout: Seconds,

    /// On SIGTERM or SIGINT, run the deferred calls that come due within this
    /// time.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Deadlines")]
    pub(super) grace: Seconds,

    #[command(flatten)]
    pub(super) deferred: DeferredOptions,

    /// Write the log to this file instead of standard error. SIGUSR1 reopens it.
    #[arg(long, value_name = "FILE", help_heading = "What it shows")]
    pub(super) logto: Option<PathBuf>,

    /// Write no line for each request.
    #[arg(long, help_heading = "What it shows")]
    pub(super) disable_logging: bool,

    /// Write a line for each deferred call.
    #[arg(long, help_heading = "What it shows")]
    pub(super) log_deferred: bool,

    /// Write a line for each outbound request, and for each connection of a socket.
    #[arg(long, help_heading = "What it shows")]
    pub(super) log_outbound: bool,

    /// Write what guests print byte by byte, without `guest: ` before each line: a guest
    /// can then write lines that look like those of the server.
    #[arg(long, help_heading = "What it shows")]
    pub(super) log_verbatim: bool,

    /// Bytes that guests may write to the log in a second, all together; what is more is
    /// dropped and counted. 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value = "8M", help_heading = "What it shows")]
    pub(super) log_rate: Bytes,

    /// Bytes that they may write at once, before --log-rate counts. One call gets at most
    /// half of what is left, so that it silences no other.
    #[arg(long, value_name = "BYTES", default_value = "16M", help_heading = "What it shows")]
    pub(super) log_burst: Bytes,

    /// Serve /metrics (Prometheus), /stats (JSON) and /healthz on this address
    /// [default: off].
    #[arg(long, value_name = "ADDR", help_heading = "What it shows")]
    pub(super) stats: Option<Address>,

    /// Write to this file where it serves, such as http://127.0.0.1:8080/, and on a second
    /// line where --stats is. It is there, whole, once requests are served, and goes at a
    /// stop: for scripts that wait for that.
    #[arg(long, value_name = "FILE", help_heading = "What it shows")]
    pub(super) print_address: Option<PathBuf>,

    /// Connections that are served at once; one more for each thread is accepted
    /// and waits.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Clients")]
    pub(super) connections: usize,

    /// Connections of one client: of one address, or of one IPv6 network of 64 bits. One
    /// more is closed. Trusted proxies and Unix sockets are not counted, and 0 is no
    /// bound [default: seven eighths of --connections].
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub(super) connections_per_client: Option<u32>,

    /// Cores that the requests of one client hold at once. One more waits in its place in
    /// the queue, where others pass by, and is answered 503 as others are; of the queue's
    /// places a client gets the same part. 0 is no bound [default: seven eighths of
    /// --cores].
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub(super) cores_per_client: Option<u32>,

    /// Connections that the system holds until they are accepted, for each thread.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Clients")]
    pub(super) listen: u32,

    /// Bytes of a request's head; a longer one is answered 431 or 414.
    #[arg(long, value_name = "BYTES", default_value = "64K", help_heading = "Clients")]
    pub(super) head_limit: Bytes,

    /// Fields in a request's head; more are answered 431.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Clients")]
    pub(super) head_fields: usize,

    /// Bytes of a request's body; a longer one is answered 413.
    #[arg(long, value_name = "BYTES", default_value = "1G", help_heading = "Clients")]
    pub(super) body_limit: Bytes,

    /// Bytes of a response that are taken out of the guest's hands before its client takes
    /// them: the guest of a response that fits is done, and its core free, however slow
    /// the client is.
    #[arg(long, value_name = "BYTES", default_value = "256K", help_heading = "Clients")]
    pub(super) response_buffer: Bytes,

    /// Bytes of all responses together that are so taken. Beyond this, guests wait for
    /// their clients.
    #[arg(long, value_name = "BYTES", default_value = "64M", help_heading = "Clients")]
    pub(super) response_memory: Bytes,

    /// Time for a request's head, from its first byte.
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Clients")]
    pub(super) head_timeout: Seconds,

    /// Time between two pieces of a request's body that the guest waits for.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Clients")]
    pub(super) body_timeout: Seconds,

    /// Time in which a client must take some of the response.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Clients")]
    pub(super) write_timeout: Seconds,

    /// Time that a connection may stay without a request.
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Clients")]
    pub(super) idle_timeout: Seconds,

    /// Time in which what a client still sends is read, and thrown away, after the last
    /// response of its connection: what it sends of an upload that the guest did not want.
    /// A connection that is closed before is reset, and the response may be lost.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Clients")]
    pub(super) linger_timeout: Seconds,

    /// Bytes of it that are read.
    #[arg(long, value_name = "BYTES", default_value = "64M", help_heading = "Clients")]
    pub(super) linger_limit: Bytes,

    /// A proxy that is believed what it says of its clients by `X-Forwarded-For` and
    /// `X-Forwarded-Proto`, or by `Forwarded`: an IP address, a network such as 10.0.0.0/8, or
    /// `unix` for every client of a Unix socket. Repeatable.
    #[arg(long, value_name = "ADDR", help_heading = "Clients")]
    pub(super) trusted_proxy: Vec<TrustedProxy>,

    #[command(flatten)]
    pub(super) cache: CacheOptions,

    /// Time for compiling the guest, at the start and at SIGHUP.
    #[arg(long, value_name = "SECONDS", default_value = "300", help_heading = "Deadlines")]
    pub(super) compile_timeout: Seconds,

    /// Address space for compiling the guest, in bytes; K, M and G multiply by 1024. What it
    /// takes is given back when it is done.
    #[arg(long, value_name = "BYTES", default_value = "3G", help_heading = "What to serve")]
    pub(super) compile_memory: Bytes,
}

impl Options {
    /// Threads that run guests.
    pub(super) fn threads(&self) -> NonZeroU32 {
        self.threads.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
            NonZeroU32::new(cpus as u32).unwrap_or(NonZeroU32::MIN)
        })
    }

    /// Where to listen.
    pub fn sockets(&self) -> Sockets {
        let (http, stats) = (self.http_socket.clone(), self.stats.clone());
        Sockets { http, stats, backlog: self.listen, mode: self.chmod_socket }
    }

    /// The file that says where it serves.
    pub fn address_file(&self) -> Option<&Path> {
        self.print_address.as_deref()
    }

    pub fn cache(&self) -> &CacheOptions {
        &self.cache
    }
}
