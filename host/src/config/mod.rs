//! The command line, turned into checked values before anything is opened or
//! bound. Nothing else in the program reads arguments or the environment.

mod grants;
mod hints;
mod machine;
mod paths;
mod project;
mod python;
mod tasks;
mod values;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{ArgGroup, Args, Parser, Subcommand};

use self::paths::{check_file, check_folder, check_folder_of};

pub use self::project::{Build, Componentize, Dev, Language, Made, New, own_program};
pub use self::python::PythonOptions;
pub use self::tasks::{Compiling, Confined};
pub use self::values::{Bytes, Seconds};
use crate::connection::address::{Address, Mode};
use crate::connection::client::TrustedProxy;
use crate::deferred;
use crate::dispatch::clients::Bounds;
use crate::guest::compiling;
use crate::program::guest::{self, Reuse, Room};
use crate::program::load::Source;
use crate::sandbox::host;
use crate::system::confined;
use crate::system::folders::{self, Folder};
use crate::telemetry::log::GuestLines;

/// Unless another one is given.
const MEMORY_LIMIT: &str = "128M";
/// A line of 64 KiB, escaped, fits into half of it.
const LOG_BURST_MIN: usize = 1 << 20;

/// Serve HTTP with a WebAssembly guest, each call behind a wall of its own. A guest is a
/// component, which is a WebAssembly file that declares what it imports and exports, or a
/// program. A core is the place for one call at a time: neither a thread nor a CPU.
#[derive(Parser, Debug)]
#[command(
    name = "wasm-serve",
    version,
    max_term_width = 100,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = AFTER_HELP
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub task: Option<Task>,

    #[command(flatten)]
    pub serve: Options,
}

impl CommandLine {
    /// Reads one, with the program's name. The error says what may have been meant.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(arguments).map_err(|mut error| {
            hints::add(&mut error);
            error
        })
    }
}

/// What can be done instead of serving.
#[derive(Subcommand, Debug)]
pub enum Task {
    /// Begin a project: a folder with a guest in the language of your choice.
    New(New),
    /// Build a project, or make a component of a Python file, and do not serve it.
    Build(Build),
    /// Build a project and serve it; build and swap it whenever it changes.
    Dev(Dev),
    /// Make a component of a core module, as compilers of C, Go or AssemblyScript make it.
    Componentize(Componentize),
    /// Tell what a file is, what it needs and would get, and whether it can be served.
    Inspect(Inspect),
    #[command(hide = true, name = compiling::TASK)]
    Compile(Compiling),
    #[command(hide = true, name = confined::TASK)]
    Confined(Confined),
}

/// What is to be told about.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 if the file can be served, 1 if not, 64 for a usage error.")]
pub struct Inspect {
    /// Any file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The memory that one instance is to have, in bytes; K, M and G multiply by 1024.
    #[arg(long, value_name = "BYTES", default_value = MEMORY_LIMIT)]
    pub memory_limit: Bytes,
}

impl Inspect {
    pub fn check(&self) -> Result<()> {
        check_file("", &self.file)
    }
}

/// How to serve.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").args(["guest", "wsgi_file"]).required(true)))]
pub struct Options {
    /// The guest: a component that exports `wasi:http` 0.2 or 0.3, or a program (a WASI
    /// command), which is served by CGI.
    #[arg(long, value_name = "FILE", help_heading = "What to serve")]
    pub guest: Option<PathBuf>,

    /// The guest: a Python file with a WSGI application, of which a component is made
    /// first. It sees the current folder, read-only, unless --dir is given.
    #[arg(long, value_name = "FILE", help_heading = "What to serve")]
    pub wsgi_file: Option<PathBuf>,

    #[command(flatten)]
    pub python: PythonOptions,

    /// Where to listen: 127.0.0.1:9090, [::1]:9090, :9090 (every interface) or
    /// unix:PATH. Port 0 asks the system for a free port.
    #[arg(
        long,
        visible_alias = "addr",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        help_heading = "What to serve"
    )]
    pub http_socket: Address,

    /// Permissions of the Unix sockets of --http-socket and --stats, octal [default: what the
    /// umask leaves; without a value 666].
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        default_missing_value = "666",
        help_heading = "What to serve"
    )]
    pub chmod_socket: Option<Mode>,

    /// Let the guest see a folder, by default at its root `/`, where relative
    /// paths lead. Repeatable; `::ro` makes it read-only.
    #[arg(long, value_name = "HOST[::GUEST][::ro]", help_heading = "What to serve")]
    pub dir: Vec<Folder>,

    /// Make all of the guests' file calls in the worker's thread, not only those that
    /// need not wait. It is cheaper; but a call that the disk does not answer, or a
    /// named pipe, then holds up the worker's other clients, and no deadline ends it.
    #[arg(long, help_heading = "What to serve")]
    pub blocking_files: bool,

    /// Let the guest see an environment variable; without a value, the server's
    /// own. Repeatable. A Python application sees it while it is imported, too; a program
    /// (CGI) has those of a request, such as HTTP_..., from requests alone.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::variable, help_heading = "What to serve")]
    pub env: Vec<(String, String)>,

    /// Guest calls (requests and deferred calls) under way at once, running or
    /// suspended.
    #[arg(long, value_name = "N", value_parser = values::count, default_value = "256", help_heading = "Cores")]
    pub cores: NonZeroU32,

    /// Threads that run them [default: one for each CPU].
    #[arg(long, value_name = "N", value_parser = values::count, help_heading = "Cores")]
    pub threads: Option<NonZeroU32>,

    /// Calls that an instance serves, one after the other, before a new one
    /// takes its place. 0 is no limit [default: 1; with --wsgi-file 0].
    #[arg(long, value_name = "N", help_heading = "Cores")]
    pub max_requests: Option<u32>,

    /// Memory of one instance, in bytes; K, M and G multiply by 1024.
    #[arg(long, value_name = "BYTES", default_value = MEMORY_LIMIT, help_heading = "Cores")]
    pub memory_limit: Bytes,

    /// What the server itself may hold for one instance, in bytes: header fields, bodies,
    /// buffers, tables, open files. A guest that makes it hold more is stopped.
    #[arg(long, value_name = "BYTES", default_value = "32M", help_heading = "Cores")]
    pub host_memory_limit: Bytes,

    /// Memory of all instances together, in bytes, with what the server holds for them. A call
    /// that finds no room waits as for a core, and is then answered 503 [default: half of
    /// what the machine has, or the control group].
    #[arg(long, value_name = "BYTES", help_heading = "Cores")]
    pub memory_total: Option<Bytes>,

    /// An instance that takes more than this serves no further call, in bytes [default: three
    /// quarters of --memory-limit].
    #[arg(long, value_name = "BYTES", help_heading = "Cores")]
    pub kept_memory: Option<Bytes>,

    /// How long an instance waits for a further call before it ends.
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Cores")]
    pub kept_time: Seconds,

    /// Files and folders that one instance may have open; one more is an error for the
    /// guest.
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Cores")]
    pub open_files: usize,

    /// Files and folders that all guests together may have open. Where the system allows
    /// less (`ulimit -n`), half of what connections do not need for certain.
    #[arg(long, value_name = "N", default_value_t = 8192, help_heading = "Cores")]
    pub open_files_total: usize,

    /// Requests that wait for a core; one more is answered 503.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Cores")]
    pub queue: usize,

    /// How long a request waits for a core before it is answered 503.
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Cores")]
    pub queue_timeout: Seconds,

    /// Time for a request, from taking a core until the response is complete.
    #[arg(
        long,
        visible_alias = "request-timeout",
        value_name = "SECONDS",
        default_value = "30",
        help_heading = "Deadlines"
    )]
    pub harakiri: Seconds,

    /// Time for guest work that goes on after the response is complete.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Deadlines")]
    pub tail_timeout: Seconds,

    /// Time for a Python application whose client has left, or whose response broke off: it
    /// learns of it when it next sends or reads, and closes what it has opened (PEP 3333).
    /// 0 ends it at once. One that has SQLite locked has at most 0.1.
    #[arg(long, value_name = "SECONDS", default_value = "1", help_heading = "Deadlines")]
    pub close_timeout: Seconds,

    /// Time for a deferred call, from taking a core.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Deadlines")]
    pub deferred_timeout: Seconds,

    /// On SIGTERM or SIGINT, run the deferred calls that come due within this
    /// time.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Deadlines")]
    pub grace: Seconds,

    /// Deferred calls that may be pending at once.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = "Deferred calls")]
    pub deferred_pending: u64,

    /// Deferred calls that one guest call may schedule.
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Deferred calls")]
    pub deferred_per_call: u64,

    /// Payload of one deferred call, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "64K", help_heading = "Deferred calls")]
    pub deferred_payload: Bytes,

    /// Payloads of all pending deferred calls together, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "256M", help_heading = "Deferred calls")]
    pub deferred_memory: Bytes,

    /// The longest delay.
    #[arg(long, value_name = "SECONDS", default_value = "2592000", help_heading = "Deferred calls")]
    pub deferred_delay: Seconds,

    /// The part of the cores' turns that goes to deferred calls while some are due.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=99), help_heading = "Deferred calls")]
    pub deferred_share: u32,

    /// Write the log to this file instead of standard error. SIGUSR1 reopens it.
    #[arg(long, value_name = "FILE", help_heading = "What it shows")]
    pub logto: Option<PathBuf>,

    /// Write no line for each request.
    #[arg(long, help_heading = "What it shows")]
    pub disable_logging: bool,

    /// Write a line for each deferred call.
    #[arg(long, help_heading = "What it shows")]
    pub log_deferred: bool,

    /// Write what guests print byte by byte, without `guest: ` before each line: a guest
    /// can then write lines that look like those of the server.
    #[arg(long, help_heading = "What it shows")]
    pub log_verbatim: bool,

    /// Bytes that guests may write to the log in a second, all together; what is more is
    /// dropped and counted. 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value = "8M", help_heading = "What it shows")]
    pub log_rate: Bytes,

    /// Bytes that they may write at once, before --log-rate counts. One call gets at most
    /// half of what is left, so that it silences no other.
    #[arg(long, value_name = "BYTES", default_value = "16M", help_heading = "What it shows")]
    pub log_burst: Bytes,

    /// Serve /metrics (Prometheus), /stats (JSON) and /healthz on this address
    /// [default: off].
    #[arg(long, value_name = "ADDR", help_heading = "What it shows")]
    pub stats: Option<Address>,

    /// Write to this file where it serves, such as http://127.0.0.1:8080/, and on a second
    /// line where --stats is. It is there, whole, once requests are served, and goes at a
    /// stop: for scripts that wait for that.
    #[arg(long, value_name = "FILE", help_heading = "What it shows")]
    pub print_address: Option<PathBuf>,

    /// Connections that are served at once; one more for each thread is accepted
    /// and waits.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Clients")]
    pub connections: usize,

    /// Connections of one client: of one address, or of one IPv6 network of 64 bits. One
    /// more is closed. Trusted proxies and Unix sockets are not counted, and 0 is no
    /// bound [default: seven eighths of --connections].
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub connections_per_client: Option<u32>,

    /// Cores that the requests of one client hold at once. One more waits in its place in
    /// the queue, where others pass by, and is answered 503 as others are; of the queue's
    /// places a client gets the same part. 0 is no bound [default: seven eighths of
    /// --cores].
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub cores_per_client: Option<u32>,

    /// Connections that the system holds until they are accepted, for each thread.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Clients")]
    pub listen: u32,

    /// Bytes of a request's head; a longer one is answered 431 or 414.
    #[arg(long, value_name = "BYTES", default_value = "64K", help_heading = "Clients")]
    pub head_limit: Bytes,

    /// Fields in a request's head; more are answered 431.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Clients")]
    pub head_fields: usize,

    /// Bytes of a request's body; a longer one is answered 413.
    #[arg(long, value_name = "BYTES", default_value = "1G", help_heading = "Clients")]
    pub body_limit: Bytes,

    /// Bytes of a response that are taken out of the guest's hands before its client takes
    /// them: the guest of a response that fits is done, and its core free, however slow
    /// the client is.
    #[arg(long, value_name = "BYTES", default_value = "256K", help_heading = "Clients")]
    pub response_buffer: Bytes,

    /// Bytes of all responses together that are so taken. Beyond this, guests wait for
    /// their clients.
    #[arg(long, value_name = "BYTES", default_value = "64M", help_heading = "Clients")]
    pub response_memory: Bytes,

    /// Time for a request's head, from its first byte.
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Clients")]
    pub head_timeout: Seconds,

    /// Time between two pieces of a request's body that the guest waits for.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Clients")]
    pub body_timeout: Seconds,

    /// Time in which a client must take some of the response.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Clients")]
    pub write_timeout: Seconds,

    /// Time that a connection may stay without a request.
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Clients")]
    pub idle_timeout: Seconds,

    /// Time in which what a client still sends is read, and thrown away, after the last
    /// response of its connection: what it sends of an upload that the guest did not want.
    /// A connection that is closed before is reset, and the response may be lost.
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = "Clients")]
    pub linger_timeout: Seconds,

    /// Bytes of it that are read.
    #[arg(long, value_name = "BYTES", default_value = "64M", help_heading = "Clients")]
    pub linger_limit: Bytes,

    /// A proxy that is believed what it says of its clients by `X-Forwarded-For` and
    /// `X-Forwarded-Proto`, or by `Forwarded`: an IP address, a network such as 10.0.0.0/8, or
    /// `unix` for every client of a Unix socket. Repeatable.
    #[arg(long, value_name = "ADDR", help_heading = "Clients")]
    pub trusted_proxy: Vec<TrustedProxy>,

    #[command(flatten)]
    pub cache: CacheOptions,

    /// Time for compiling the guest, at the start and at SIGHUP.
    #[arg(long, value_name = "SECONDS", default_value = "300", help_heading = "Deadlines")]
    pub compile_timeout: Seconds,

    /// Address space for compiling the guest, in bytes; K, M and G multiply by 1024. What it
    /// takes is given back when it is done.
    #[arg(long, value_name = "BYTES", default_value = "3G", help_heading = "What to serve")]
    pub compile_memory: Bytes,
}

/// What is kept from one start to the next.
#[derive(Args, Debug)]
pub struct CacheOptions {
    /// Where compiled guests, and components made of Python files, are kept; tools are then
    /// installed in DIR/tools. Nobody else may be able to write there [default:
    /// $XDG_CACHE_HOME/wasm-serve/compiled, and tools beside it; without that variable,
    /// ~/.cache/wasm-serve/compiled].
    #[arg(long, value_name = "DIR", help_heading = "What to serve")]
    pub cache: Option<PathBuf>,
}

impl CacheOptions {
    /// None if the user has no such folder.
    pub fn folder(&self) -> Option<PathBuf> {
        self.named().or_else(|| user_cache().map(|folder| folder.join("compiled")))
    }

    /// Where the tools are that make guests.
    pub fn tools(&self) -> Option<PathBuf> {
        let of_cache = || self.named().or_else(user_cache).map(|folder| folder.join("tools"));
        absolute(TOOLS_VARIABLE).or_else(of_cache)
    }

    /// The one that the command line names, or the server that runs this program in a script.
    fn named(&self) -> Option<PathBuf> {
        let on_command_line = self.cache.as_ref().and_then(|folder| std::path::absolute(folder).ok());
        on_command_line.or_else(|| absolute(CACHE_VARIABLE))
    }

    /// What a project's script is told, so that what it runs uses the same folders.
    pub fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(cache) = self.named() else { return Vec::new() };
        let tools = self.tools().map(|tools| (TOOLS_VARIABLE, tools));
        [(CACHE_VARIABLE, cache)].into_iter().chain(tools).collect()
    }
}

/// They are for scripts, and say what --cache says.
const CACHE_VARIABLE: &str = "WASM_SERVE_CACHE";
const TOOLS_VARIABLE: &str = "WASM_SERVE_TOOLS";

/// The path in a variable, if it is one that leads to the same place from everywhere.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Our part of where the user's programs keep what they can make again.
fn user_cache() -> Option<PathBuf> {
    let of_user = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    of_user.map(|folder| folder.join("wasm-serve"))
}

impl Options {
    /// What can be checked without opening or binding anything but the folders
    /// named. The message says what to change.
    pub fn check(&self) -> Result<()> {
        self.check_values()?;
        if let Some(file) = &self.guest {
            check_file("--guest ", file)?;
        }
        folders::check(&self.dir, &[self.guarded_guest(), self.guarded()].concat())
    }

    /// The same, but for what the guest could write to.
    pub(crate) fn check_values(&self) -> Result<()> {
        self.check_folders()?;
        match &self.wsgi_file {
            Some(file) => self.python.check(file)?,
            None => self.python.check_unused()?,
        }
        self.check_files_and_sockets()?;
        self.check_limits()
    }

    fn check_folders(&self) -> Result<()> {
        for (index, folder) in self.dir.iter().enumerate() {
            check_folder("--dir ", &folder.host)?;
            let is_folder = std::fs::metadata(&folder.host)
                .with_context(|| format!("--dir {}: cannot be opened", folder.host.display()))?
                .is_dir();
            ensure!(is_folder, "--dir {}: is not a folder", folder.host.display());
            let taken = self.dir[..index].iter().any(|other| other.guest == folder.guest);
            ensure!(
                !taken,
                "--dir {}: another folder is at {} already; give this one a place with {}::PATH",
                folder.host.display(),
                folder.guest,
                folder.host.display()
            );
        }
        Ok(())
    }

    fn check_files_and_sockets(&self) -> Result<()> {
        for (option, file) in [("--logto ", &self.logto), ("--print-address ", &self.print_address)] {
            file.as_deref().map_or(Ok(()), |file| check_folder_of(option, file))?;
        }
        for (name, address) in [("--http-socket", Some(&self.http_socket)), ("--stats", self.stats.as_ref())]
        {
            if let Some(Address::Unix(path)) = address {
                check_folder_of(&format!("{name} unix:"), path)?;
            }
        }
        let sockets = [Some(&self.http_socket), self.stats.as_ref()];
        let is_unix = |address: &&Address| matches!(address, Address::Unix(_));
        ensure!(
            self.chmod_socket.is_none() || sockets.into_iter().flatten().any(|address| is_unix(&address)),
            "--chmod-socket is for --http-socket unix:PATH or --stats unix:PATH"
        );
        Ok(())
    }

    fn check_limits(&self) -> Result<()> {
        ensure!(!self.harakiri.0.is_zero(), "--harakiri must be more than 0 seconds");
        ensure!(!self.deferred_timeout.0.is_zero(), "--deferred-timeout must be more than 0 seconds");
        ensure!(!self.compile_timeout.0.is_zero(), "--compile-timeout must be more than 0 seconds");
        ensure!(self.compile_memory.0 >= 256 << 20, "--compile-memory must be at least 256M");
        ensure!(self.head_limit.0 >= 8192, "--head-limit must be at least 8K");
        ensure!(self.head_limit.0 <= 1 << 30, "--head-limit must be at most 1G");
        ensure!((1..=10_000).contains(&self.head_fields), "--head-fields must be from 1 to 10000");
        ensure!(
            self.memory_limit.0 as u64 <= 4 << 30,
            "--memory-limit must be at most 4G, which is all that a guest can address"
        );
        ensure!(self.host_memory_limit.0 >= 1 << 20, "--host-memory-limit must be at least 1M");
        ensure!(
            self.memory_total.is_none_or(|total| total.0 >= 1 << 20),
            "--memory-total must be at least 1M"
        );
        ensure!(!self.kept_time.0.is_zero(), "--kept-time must be more than 0 seconds");
        ensure!(self.open_files >= 1, "--open-files must be at least 1");
        ensure!(self.open_files_total >= 1, "--open-files-total must be at least 1");
        ensure!(self.connections >= 1, "--connections must be at least 1");
        ensure!(
            self.connections <= tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize),
            "--connections is too large"
        );
        ensure!(
            self.log_burst.0 >= LOG_BURST_MIN,
            "--log-burst must be at least 1M, so that a long line fits into it"
        );
        ensure!(self.cores.get() <= 100_000, "--cores must be at most 100000");
        ensure!(self.threads().get() <= 1024, "--threads must be at most 1024");
        Ok(())
    }

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

const AFTER_HELP: &str = "\
Examples: wasm-serve --guest hello.wasm --cores 2
          wasm-serve --wsgi-file app.py --http-socket :9090

Signals: SIGTERM and SIGINT stop when the work in hand is done, a second one at
once; SIGHUP loads the guest's file anew and swaps it without dropping a request;
SIGUSR1 reopens the log file. Exit codes: 0 after a clean stop, 64 for a usage
error, 1 otherwise.";
