//! A server: its parts put together, started in the order in which one needs the
//! other, and stopped.

mod announce;
mod drain;
mod figures;
mod idle;
mod open_files;
mod service_manager;
mod signals;
mod swap;
mod worker;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use self::announce::Urls;
use self::drain::Drain;
use self::service_manager::{ServiceManager, State};
use self::signals::{Changes, Signals};
use self::swap::{Swapper, Swaps};
use self::worker::Connections;
use crate::config::Settings;
use crate::connection::listen::Bound;
use crate::dispatch::{Dispatch, timer};
use crate::memory::budget::Budget;
use crate::memory::memories::Neighbours;
use crate::program::Program;
use crate::program::load::Guest;
use crate::program::loader::Loader;
use crate::request::current::Current;
use crate::sandbox::epoch::Epoch;
use crate::sandbox::files::places::Places;
use crate::sandbox::host::{Host, Shared};
use crate::sandbox::meta_variables::ServerAddress;
use crate::statuses;
use crate::system::address_file::AddressFile;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

/// How long the last lines may take, should nobody read them.
const LOG_TIME: Duration = Duration::from_secs(10);
const LOG_TIME_IN_HASTE: Duration = Duration::from_secs(1);
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
    signals::survive_file_limits();
    settings.readable_by_the_guest().iter().for_each(|told| log.server(told));
    let places = Places::new(settings.open_files(), open_files::share(settings));
    let stats = Arc::new(Stats::new(&statuses::METRICS));
    let shared = Shared {
        log: log.clone(),
        deferred: Arc::new(settings.deferred(log)?),
        budget: Budget::new(settings.memory_total_bytes()?),
        memories: Neighbours::default(),
        outbound: Arc::new(settings.outbound(log, &stats)?),
        stores: Arc::new(settings.keyvalue(log)?),
        named_values: settings.named_values().clone(),
        stats,
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
    let compiled = Compiled::new(settings, &shared)?;
    runtime.block_on(async {
        let signals = Signals::listen(changes).context(NO_SIGNALS)?;
        let manager = ServiceManager::new(settings.service_manager().as_deref(), log.clone());
        let server = Server::start(settings, &shared, compiled, signals, Arc::new(manager))?;
        server.urls.announce(settings, shared.budget.bytes(), address_file.as_ref())?;
        server.service_manager.tell(State::Serves);
        Ok(server.serve_until_stopped(settings, log, address_file).await)
    })
}

/// A guest that is compiled, and a host for each worker that shall run it.
struct Compiled {
    loader: Loader,
    guest: Guest,
    hosts: Vec<Host>,
}

impl Compiled {
    fn new(settings: &Settings, shared: &Shared) -> Result<Compiled> {
        let grants = settings.grants();
        let host = |_| Host::new(&grants, settings.host_limits(), shared.clone());
        let hosts = (0..settings.threads().get()).map(host).collect::<Result<_>>()?;
        let (source, log) = (settings.source().clone(), shared.log.clone());
        let loader = Loader::new(source, settings.cache(), &grants, settings.room(), log);
        let guest = loader.compile()?;
        Ok(Compiled { loader, guest, hosts })
    }

    /// A program for each worker of a server that listens at this address; none for a Unix
    /// socket.
    fn link(self, address: Option<SocketAddr>) -> Result<(Loader, Vec<Program>)> {
        let address = address.map(ServerAddress::of).unwrap_or_default();
        let hosts = self.hosts.into_iter().map(|host| Arc::new(host.at(address.clone())));
        let programs = self.loader.link(&self.guest, 0, hosts.collect())?;
        Ok((self.loader, programs))
    }
}

struct Server {
    urls: Urls,
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
        compiled: Compiled,
        signals: Signals,
        service_manager: Arc<ServiceManager>,
    ) -> Result<Server> {
        let sockets = settings.sockets();
        let (bound, stats_bound) = (sockets.bind_http(compiled.hosts.len())?, sockets.bind_stats()?);
        let urls = Urls { http: bound[0].url(), stats: stats_bound.as_ref().map(Bound::url) };
        let (loader, programs) = compiled.link(bound[0].tcp_address())?;
        let epoch = Epoch::start().context("the thread for deadlines cannot be started")?;
        programs.iter().for_each(|program| epoch.drive(&program.engine));
        let (dispatch, calls) = Dispatch::new(settings.dispatch_limits(), shared.deferred.clone());
        let (stopping, stop) = watch::channel(false);
        let (accepting, accepts) = watch::channel(());
        let connections = Connections::new(settings, stop.clone(), accepts);
        let places = connections.places.clone();
        let runs_deferred_calls = programs.iter().all(|program| program.runs_deferred_calls);
        let current: Vec<_> = programs.into_iter().map(|program| Arc::new(Current::new(program))).collect();
        let workers = worker::start(settings, shared, calls, &current, bound, connections)?;
        timer::start(dispatch.clone(), shared.deferred.clone())
            .context("the thread for deferred calls cannot be started")?;
        if runs_deferred_calls {
            shared.deferred.begin();
        }
        tokio::spawn(idle::give_back(dispatch.clone(), current.clone(), settings.kept_time()));
        let swapper = Swapper {
            loader,
            current,
            epoch,
            dispatch: dispatch.clone(),
            deferred: shared.deferred.clone(),
            named_values: shared.named_values.clone(),
            stopping: stop.clone(),
            service_manager: service_manager.clone(),
            log: shared.log.clone(),
            stats: shared.stats.clone(),
        };
        let swaps = swapper.start().context("the thread for swaps cannot be started")?;
        if let Some(bound) = stats_bound {
            figures::start(settings, shared, &dispatch, bound, stop)?;
        }
        let drain = Drain::new(settings, shared, dispatch, places, stopping, accepting);
        Ok(Server { urls, drain, signals, swaps, service_manager, _workers: workers })
    }

    async fn serve_until_stopped(
        mut self,
        settings: &Settings,
        log: &Log,
        address_file: Option<AddressFile>,
    ) -> ExitCode {
        self.signals.stop(log, || self.swaps.ask()).await;
        self.service_manager.tell(State::Stops);
        drop(address_file);
        let drained = self.drain.run(settings.grace());
        let ignored = || log.server("SIGHUP: ignored, since the server stops");
        tokio::select! {
            () = drained => ExitCode::SUCCESS,
            () = self.signals.stop(log, ignored) => {
                self.drain.cut_short().await;
                ExitCode::FAILURE
            }
        }
    }
}
