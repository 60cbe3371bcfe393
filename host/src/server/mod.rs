//! A server: its parts put together, started in the order in which one needs the
//! other, and stopped.

pub mod figures;
pub mod open_files;
pub mod service_manager;
pub mod shutdown;
pub mod swap;
pub mod worker;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{Semaphore, watch};

use self::figures::Figures;
use self::service_manager::{ServiceManager, State};
use self::shutdown::{Changes, Drain, Signals};
use self::swap::{Swapper, Swaps};
use self::worker::{Connections, Worker};
use crate::clock;
use crate::config::Settings;
use crate::connection::listen::Bound;
use crate::deferred::Deferred;
use crate::dispatch::clients::Clients;
use crate::dispatch::{Dispatch, timer};
use crate::error;
use crate::memory::budget::Budget;
use crate::program::guest::Program;
use crate::program::instance::Instance;
use crate::program::load::Loader;
use crate::request::access_log::Book;
use crate::request::current::Current;
use crate::request::service::Service;
use crate::sandbox::epoch::Epoch;
use crate::sandbox::files::places::Places;
use crate::sandbox::host::{Grants, Host, Shared};
use crate::system::address_file::AddressFile;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;
use crate::terminal::say;

/// How long the last lines may take, should nobody read them.
const LOG_TIME: Duration = Duration::from_secs(10);
const LOG_TIME_IN_HASTE: Duration = Duration::from_secs(1);
/// Idle instances are looked at no more often.
const IDLE_TURN_MIN: Duration = Duration::from_millis(100);
const NO_SIGNALS: &str = "signals cannot be received";

/// Serves until a signal ends it. An error says why it could not start.
pub fn run(settings: &Settings) -> Result<ExitCode> {
    let log = Log::open(settings.log_file(), settings.guest_lines())?;
    let served = serve(settings, &log);
    // After a clean stop all is to be written; after a second signal, what can be
    // at once.
    let is_clean = served.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS);
    log.close(if is_clean { LOG_TIME } else { LOG_TIME_IN_HASTE });
    served
}

fn serve(settings: &Settings, log: &Log) -> Result<ExitCode> {
    let places = Places::new(settings.open_files(), open_files::share(settings));
    let shared = Shared {
        log: log.clone(),
        stats: Arc::new(Stats::new(&error::METRICS)),
        deferred: Arc::new(Deferred::new(settings.deferred_limits())),
        budget: Budget::new(settings.memory_total_bytes()?),
        places: Arc::new(places),
    };
    // The server's own thread waits for signals and shows figures; it runs no
    // guest, so that none can hold it up.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the server cannot be started")?;
    let changes = {
        let _entered = runtime.enter();
        Changes::listen().context(NO_SIGNALS)?
    };
    settings.sockets().check()?;
    // After that: a second server by mistake leaves the first one's in its place.
    let address_file = settings.address_file().map(AddressFile::begin).transpose()?;
    let grants = settings.grants();
    let loader =
        Loader::new(settings.source().clone(), settings.cache(), &grants, settings.room(), log.clone());
    let programs = programs(settings, &shared, &grants, &loader)?;
    runtime.block_on(async {
        let signals = Signals::listen(changes).context(NO_SIGNALS)?;
        let manager = ServiceManager::new(settings.service_manager().as_deref(), log.clone());
        let server = Server::start(settings, &shared, loader, programs, signals, Arc::new(manager))?;
        server.announce(settings, address_file.as_ref())?;
        server.service_manager.tell(State::Serves);
        server.serve_until_stopped(settings, address_file).await
    })
}

/// A program for each worker, with a host of its own.
fn programs(settings: &Settings, shared: &Shared, grants: &Grants, loader: &Loader) -> Result<Vec<Program>> {
    let host = |_| Host::new(grants, settings.host_limits(), shared.clone()).map(Arc::new);
    let hosts: Result<Vec<_>> = (0..settings.threads().get()).map(host).collect();
    loader.load(0, hosts?)
}

struct Server {
    url: String,
    stats_url: Option<String>,
    memory_total_bytes: u64,
    drain: Drain,
    signals: Signals,
    swaps: Swaps,
    service_manager: Arc<ServiceManager>,
    /// The workers end when this is dropped.
    _workers: watch::Sender<()>,
}

impl Server {
    fn start(
        settings: &Settings,
        shared: &Shared,
        loader: Loader,
        mut programs: Vec<Program>,
        signals: Signals,
        service_manager: Arc<ServiceManager>,
    ) -> Result<Server> {
        let Shared { log, stats, deferred, .. } = shared;
        let sockets = settings.sockets();
        let (bound, stats_bound) = (sockets.bind_http(programs.len())?, sockets.bind_stats()?);
        let (url, stats_url) = (bound[0].url(), stats_bound.as_ref().map(Bound::url));
        tell_address(&bound[0], &mut programs);
        let epoch = Epoch::start().context("the thread for deadlines cannot be started")?;
        programs.iter().for_each(|program| epoch.drive(&program.engine));
        let dispatch = Dispatch::new(settings.dispatch_limits(), deferred.clone());
        let (stopping, stop) = watch::channel(false);
        let (accepting, accepts) = watch::channel(());
        let connections = Connections {
            places: Arc::new(Semaphore::new(settings.connections() as usize)),
            clients: settings.client_bounds().map(Clients::new),
            trusted: settings.trusted_proxies().to_vec(),
            limits: settings.connection_limits(),
            stopping: stop.clone(),
            accepting: accepts,
        };
        let (workers, server) = watch::channel(());
        let current: Vec<_> = programs.into_iter().map(|program| Arc::new(Current::new(program))).collect();
        start_workers(settings, shared, &dispatch, &current, bound, &connections, &server)?;
        timer::start(dispatch.clone(), deferred.clone())
            .context("the thread for deferred calls cannot be started")?;
        tokio::spawn(end_idle(dispatch.clone(), current.clone(), settings.kept_time()));
        let swapper = Swapper {
            loader,
            current,
            epoch,
            dispatch: dispatch.clone(),
            deferred: deferred.clone(),
            stopping: stop.clone(),
            service_manager: service_manager.clone(),
            log: log.clone(),
            stats: stats.clone(),
        };
        let swaps = swapper.start().context("the thread for swaps cannot be started")?;
        if let Some(bound) = stats_bound {
            start_figures(settings, shared, &dispatch, bound, stop)?;
        }
        let drain = Drain {
            stopping,
            accepting,
            connection_places: connections.places.clone(),
            connections_max: settings.connections(),
            request_time_max: settings.request_time_max(),
            deferred_time_max: settings.callback_limits().time_max,
            dispatch,
            deferred: deferred.clone(),
            log: log.clone(),
            stats: stats.clone(),
        };
        drop(connections);
        let memory_total_bytes = shared.budget.bytes();
        Ok(Server {
            url,
            stats_url,
            memory_total_bytes,
            drain,
            signals,
            swaps,
            service_manager,
            _workers: workers,
        })
    }

    /// Says where it serves, now that it does: to scripts, and in the first lines on standard
    /// error.
    fn announce(&self, settings: &Settings, address_file: Option<&AddressFile>) -> Result<()> {
        let cores = settings.cores();
        let mebibytes = |bytes: u64| bytes >> 20;
        let of_one = settings.host_limits().memory_bytes_max as u64;
        say(format_args!("Serving HTTP on {}", self.url));
        say(format_args!(
            "{cores} cores on {} threads, guests of at most {} MiB each, {} MiB together (--memory-total)",
            settings.threads(),
            mebibytes(of_one),
            mebibytes(self.memory_total_bytes),
        ));
        if let Some(url) = &self.stats_url {
            say(format_args!("Figures on {url}"));
        }
        if settings.is_python() {
            self.announce_what_python_is_given(settings);
        }
        let Some(address_file) = address_file else { return Ok(()) };
        let urls = std::iter::once(&self.url).chain(&self.stats_url).map(String::as_str);
        address_file.write(&urls.collect::<Vec<_>>())
    }

    /// Where a Python application has other defaults than a component.
    fn announce_what_python_is_given(&self, settings: &Settings) {
        match settings.calls_per_instance() {
            0 => say("Instances serve one request after the other (--max-requests 1 gives each its own)"),
            1 => {}
            calls => say(format_args!("Instances serve {calls} requests, one after the other")),
        }
        if settings.folders_named() == 0 {
            say("The application sees the current folder as /, read-only (--dir changes that)");
        }
    }

    async fn serve_until_stopped(
        mut self,
        settings: &Settings,
        address_file: Option<AddressFile>,
    ) -> Result<ExitCode> {
        let log = &self.drain.log;
        self.signals.stop(log, || self.swaps.ask()).await;
        self.service_manager.tell(State::Stops);
        drop(address_file);
        let drained = self.drain.run(settings.grace());
        let ignored = || log.server("SIGHUP: ignored, since the server stops");
        let code = tokio::select! {
            () = drained => ExitCode::SUCCESS,
            () = self.signals.stop(log, ignored) => {
                self.drain.cut_short();
                ExitCode::FAILURE
            }
        };
        Ok(code)
    }
}

/// What only a server that listens knows. A Unix socket has nothing of it.
fn tell_address(bound: &Bound, programs: &mut [Program]) {
    let Some(address) = bound.tcp_address() else { return };
    for program in programs {
        let host = Arc::get_mut(&mut program.host).expect("there is no instance yet");
        host.address.port = Some(address.port());
        host.address.name = (!address.ip().is_unspecified()).then(|| match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        });
    }
}

/// A thread for each socket and program.
fn start_workers(
    settings: &Settings,
    shared: &Shared,
    dispatch: &Arc<Dispatch<Instance>>,
    current: &[Arc<Current>],
    bound: Vec<Bound>,
    connections: &Connections,
    server: &watch::Receiver<()>,
) -> Result<()> {
    let Shared { log, stats, .. } = shared;
    let unsent_room = settings.unsent_room();
    let mut ready = Vec::new();
    for (number, (current, bound)) in current.iter().zip(bound).enumerate() {
        let book = Book::new(log.clone(), stats.clone(), settings.logs_requests());
        let (dispatch, limits) = (dispatch.worker(number), settings.request_limits());
        let service = Service::new(current.clone(), dispatch, book, limits, unsent_room.clone());
        let worker = Worker {
            service: Arc::new(service),
            deferred: settings.callback_limits(),
            connections: connections.clone(),
            server: server.clone(),
        };
        ready.push(worker.ready(bound)?);
    }
    ready.into_iter().try_for_each(|worker| worker.start())
}

/// Shows the figures in this thread's runtime.
fn start_figures(
    settings: &Settings,
    shared: &Shared,
    dispatch: &Arc<Dispatch<Instance>>,
    bound: Bound,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let figures = Figures {
        stats: shared.stats.clone(),
        dispatch: dispatch.clone(),
        deferred: shared.deferred.clone(),
        budget: shared.budget.clone(),
        cores: settings.cores(),
        log: shared.log.clone(),
        stopping,
    };
    let listener = bound.listener().context("--stats")?;
    tokio::spawn(figures::serve(listener, Arc::new(figures), settings.connection_limits()));
    Ok(())
}

/// Gives back what no call has used for `kept_time`: instances on idle cores, and memories
/// that are ready for the next.
async fn end_idle(dispatch: Arc<Dispatch<Instance>>, workers: Vec<Arc<Current>>, kept_time: Duration) {
    let mut turns = tokio::time::interval((kept_time / 4).max(IDLE_TURN_MIN));
    loop {
        turns.tick().await;
        let time = clock::coarse().saturating_sub(kept_time.as_nanos() as clock::Nanos);
        drop(dispatch.take_kept(|instance| instance.has_rested_since(time)));
        workers.iter().for_each(|worker| worker.for_request().trim(time));
    }
}
