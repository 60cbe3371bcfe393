//! A server: its parts put together, started in the order in which one needs the
//! other, and stopped.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::accept::Listener;
use crate::activity::Patience;
use crate::config::Options;
use crate::connection;
use crate::deferred::Deferred;
use crate::dispatch::{self, Dispatch};
use crate::figures::{self, Figures};
use crate::guest::{Program, Room};
use crate::head::ClientAddress;
use crate::logging::{Log, say};
use crate::record::Book;
use crate::request::{self, Service};
use crate::shutdown::{Drain, Signals};
use crate::state::Host;
use crate::stats::Stats;
use crate::{callback, deadline, request_body};

/// How long the last lines may take, should nobody read them.
const LOG_TIME: Duration = Duration::from_secs(10);
const LOG_TIME_IN_HASTE: Duration = Duration::from_secs(1);

/// Serves until a signal ends it. An error says why it could not start.
pub fn run(options: &Options) -> Result<ExitCode> {
    let log = Log::open(options.logto.as_deref())?;
    let served = serve(options, &log);
    // After a clean stop all is to be written; after a second signal, what can be
    // at once.
    let is_clean = served.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS);
    log.close(if is_clean { LOG_TIME } else { LOG_TIME_IN_HASTE });
    served
}

fn serve(options: &Options, log: &Log) -> Result<ExitCode> {
    let stats = Arc::new(Stats::new());
    let deferred = Arc::new(Deferred::new(options.deferred_limits()));
    let host = Arc::new(Host::new(options, log.clone(), stats.clone(), deferred.clone())?);
    let room = Room { cores: options.cores.get(), memory_bytes_max: options.memory_limit.0 };
    let program = Program::load(&options.guest, options.cache_folder().as_deref(), room, host)?;
    let runtime = runtime(options)?;
    let ended = runtime.block_on(async {
        let server = Server::start(options, log, stats, deferred, program)?;
        server.announce(options);
        server.serve_until_stopped(options).await
    });
    // Nothing under way is waited for here: after a clean stop there is nothing,
    // and after a second signal it is not wanted.
    runtime.shutdown_background();
    ended
}

fn runtime(options: &Options) -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads().get() as usize)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("the threads cannot be started")
}

struct Server {
    url: String,
    stats_url: Option<String>,
    drain: Drain,
    signals: Signals,
}

impl Server {
    fn start(
        options: &Options,
        log: &Log,
        stats: Arc<Stats>,
        deferred: Arc<Deferred>,
        program: Program,
    ) -> Result<Server> {
        let signals = Signals::listen().context("signals cannot be received")?;
        let listener = Listener::bind(&options.http_socket, options.listen)?;
        let stats_listener = match &options.stats {
            Some(address) => Some(Listener::bind(address, options.listen)?),
            None => None,
        };
        let (url, stats_url) = (listener.url(), stats_listener.as_ref().map(Listener::url));
        deadline::start(&program.engine).context("the thread for deadlines cannot be started")?;
        let dispatch = Dispatch::new(dispatch_limits(options), deferred.clone());
        let service = Arc::new(Service {
            program: Arc::new(program),
            dispatch: dispatch.clone(),
            book: Arc::new(Book { log: log.clone(), stats: stats.clone(), lines: !options.disable_logging }),
            limits: request_limits(options),
        });
        start_deferred_calls(options, &service, deferred.clone());
        let places = Arc::new(Semaphore::new(options.connections));
        let (stopping, stop) = watch::channel(false);
        tokio::spawn(accept(listener, places.clone(), Acceptor::new(options, service, stop.clone())));
        if let Some(listener) = stats_listener {
            let figures = Figures {
                stats: stats.clone(),
                dispatch: dispatch.clone(),
                deferred: deferred.clone(),
                cores: options.cores.get(),
                log: log.clone(),
                stopping: stop,
            };
            tokio::spawn(figures::serve(listener, Arc::new(figures), connection_limits(options)));
        }
        let drain = Drain {
            stopping,
            connection_places: places,
            connections_max: options.connections,
            request_time_max: options.request_time_max(),
            dispatch,
            deferred,
            log: log.clone(),
            stats,
        };
        Ok(Server { url, stats_url, drain, signals })
    }

    /// The first lines on standard error.
    fn announce(&self, options: &Options) {
        let cores = options.cores.get();
        let mebibytes = |bytes: u64| bytes >> 20;
        let of_one = options.memory_limit.0 as u64;
        say(format_args!("Serving HTTP on {}", self.url));
        say(format_args!(
            "{cores} cores on {} threads, guests of at most {} MiB each, {} MiB together",
            options.threads(),
            mebibytes(of_one),
            mebibytes(of_one.saturating_mul(cores.into())),
        ));
        if let Some(url) = &self.stats_url {
            say(format_args!("Figures on {url}"));
        }
    }

    async fn serve_until_stopped(mut self, options: &Options) -> Result<ExitCode> {
        self.signals.stop(&self.drain.log).await;
        let drained = self.drain.run(options.grace.0);
        let code = tokio::select! {
            () = drained => ExitCode::SUCCESS,
            () = self.signals.stop(&self.drain.log) => {
                self.drain.cut_short();
                ExitCode::FAILURE
            }
        };
        Ok(code)
    }
}

fn start_deferred_calls(options: &Options, service: &Arc<Service>, deferred: Arc<Deferred>) {
    let limits = callback::Limits { time_max: options.deferred_timeout.0, lines: options.log_deferred };
    let for_calls = service.clone();
    service.dispatch.on_deferred(move |core, call| callback::start(for_calls.clone(), limits, core, call));
    let dispatch = service.dispatch.clone();
    // The timer; it runs as long as the server.
    tokio::spawn(async move {
        loop {
            let seen = deferred.now();
            dispatch.start_due();
            deferred.comes_due(seen).await;
        }
    });
}

/// What each accepted connection is given.
struct Acceptor {
    service: Arc<Service>,
    trusted: Vec<crate::config::TrustedProxy>,
    limits: connection::Limits,
    stopping: watch::Receiver<bool>,
}

impl Acceptor {
    fn new(options: &Options, service: Arc<Service>, stopping: watch::Receiver<bool>) -> Acceptor {
        Acceptor {
            service,
            trusted: options.trusted_proxy.clone(),
            limits: connection_limits(options),
            stopping,
        }
    }
}

/// Accepts until the server stops, and with it closes the listener. Each connection has a task of its own, which
/// holds its place among `--connections`.
async fn accept(listener: Listener, places: Arc<Semaphore>, acceptor: Acceptor) {
    let Acceptor { service, trusted, limits, stopping } = acceptor;
    let mut stop = stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(&places, &service.book.log) => accepted,
            _ = stop.wait_for(|stopping| *stopping) => return,
        };
        let stats = service.book.stats.clone();
        stats.connections_accepted.inc();
        stats.connections.inc();
        let address = ClientAddress::new(accepted.address, &trusted);
        let service = service.clone();
        let respond = move |request, client| service.clone().respond(request, client);
        let connection = connection::serve(accepted.stream, address, limits, stopping.clone(), respond);
        tokio::spawn(async move {
            connection.await;
            stats.connections.dec();
            drop(accepted.place);
        });
    }
}

fn dispatch_limits(options: &Options) -> dispatch::Limits {
    dispatch::Limits {
        cores: options.cores.get(),
        queue_max: options.queue,
        queue_time_max: options.queue_timeout.0,
        deferred_share: options.deferred_share,
    }
}

fn request_limits(options: &Options) -> request::Limits {
    request::Limits {
        body: request_body::Limits {
            bytes_max: options.body_limit.0 as u64,
            wait_max: options.body_timeout.0,
        },
        time_max: options.harakiri.0,
        tail_time_max: options.tail_timeout.0,
        calls_per_instance: options.max_requests,
    }
}

fn connection_limits(options: &Options) -> connection::Limits {
    connection::Limits {
        head_bytes_max: options.head_limit.0,
        head_fields_max: options.head_fields,
        patience: Patience {
            idle: options.idle_timeout.0,
            head: options.head_timeout.0,
            write: options.write_timeout.0,
            request: options.request_time_max(),
        },
    }
}
