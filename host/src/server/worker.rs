//! A worker: a thread that accepts connections and runs guests, with a runtime, a
//! listener and a program of its own, so that workers do not wait for each other.
//! What they share is the cores (`dispatch`), the deferred calls, the log and the
//! figures. A connection stays with the worker that accepted it.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Settings;
use crate::connection;
use crate::connection::client::ClientAddress;
use crate::connection::client::TrustedProxy;
use crate::connection::listen::{Accepted, Bound, Listener};
use crate::dispatch::Calls;
use crate::dispatch::clients::{Claim, Clients};
use crate::program::instance::Instance;
use crate::request::access_log::Book;
use crate::request::callback;
use crate::request::current::Current;
use crate::request::service::Service;
use crate::sandbox::host::Shared;

/// Starts a worker for each socket and program. They end when what this gives is dropped.
pub(super) fn start(
    settings: &Settings,
    shared: &Shared,
    calls: Vec<Calls<Instance>>,
    current: &[Arc<Current>],
    bound: Vec<Bound>,
    connections: Connections,
) -> Result<watch::Sender<()>> {
    let Shared { log, stats, deferred, .. } = shared;
    let (workers, server) = watch::channel(());
    let unsent_room = settings.unsent_room();
    let mut ready = Vec::new();
    for ((current, bound), calls) in current.iter().zip(bound).zip(calls) {
        let book = Book::new(log.clone(), stats.clone(), settings.logs_requests());
        let (dispatch, limits) = (calls.worker().clone(), settings.request_limits());
        let service =
            Service::new(current.clone(), dispatch, book, limits, unsent_room.clone(), deferred.clone());
        let worker = Worker {
            service: Arc::new(service),
            calls,
            callbacks: settings.callback_limits(),
            connections: connections.clone(),
            server: server.clone(),
        };
        ready.push(worker.ready(bound)?);
    }
    ready.into_iter().try_for_each(|worker| worker.start())?;
    Ok(workers)
}

/// What one worker is made of.
struct Worker {
    service: Arc<Service>,
    calls: Calls<Instance>,
    callbacks: callback::Limits,
    connections: Connections,
    /// The server is gone when its other half is.
    server: watch::Receiver<()>,
}

/// What each accepted connection is given.
#[derive(Clone)]
pub(super) struct Connections {
    /// One for each connection that may be open.
    pub(super) places: Arc<Semaphore>,
    /// What each client may have, unless that has no bound.
    clients: Option<Arc<Clients>>,
    trusted: Vec<TrustedProxy>,
    limits: connection::Limits,
    /// True once no more connections shall be accepted.
    stopping: watch::Receiver<bool>,
    /// Held as long as connections are accepted.
    _accepting: watch::Receiver<()>,
}

/// A worker that has all that it needs.
struct Ready {
    runtime: Runtime,
    listener: Listener,
    worker: Worker,
}

impl Worker {
    /// Makes the runtime and hands the socket to it. Nothing is accepted yet.
    fn ready(self, bound: Bound) -> Result<Ready> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("a worker cannot be started")?;
        let listener = {
            let _inside = runtime.enter();
            bound.listener().context("a worker cannot listen")?
        };
        Ok(Ready { runtime, listener, worker: self })
    }
}

impl Ready {
    /// Starts the thread. It ends, and with it what is under way, when the server
    /// is gone.
    fn start(self) -> Result<()> {
        let Ready { runtime, listener, worker } = self;
        let serve = move || serve(&runtime, listener, worker);
        std::thread::Builder::new()
            .name("worker".into())
            .spawn(serve)
            .context("a worker cannot be started")?;
        Ok(())
    }
}

fn serve(runtime: &Runtime, listener: Listener, worker: Worker) {
    let Worker { service, mut calls, callbacks, connections, mut server } = worker;
    runtime.block_on(async {
        let for_calls = service.clone();
        tokio::spawn(async move {
            loop {
                let (core, call) = calls.next().await;
                tokio::spawn(callback::run(for_calls.clone(), callbacks, core, call));
            }
        });
        tokio::spawn(accept(listener, service, connections));
        // The error is what it waits for: nobody can say anything any more.
        while server.changed().await.is_ok() {}
    });
}

/// A connection that may be served.
struct Admitted {
    accepted: Accepted,
    address: ClientAddress,
    claim: Option<Arc<Claim>>,
    place: OwnedSemaphorePermit,
}

impl Connections {
    /// They are accepted until `stopping` is true, and those who accept hold `accepting`.
    pub(super) fn new(
        settings: &Settings,
        stopping: watch::Receiver<bool>,
        accepting: watch::Receiver<()>,
    ) -> Connections {
        Connections {
            places: Arc::new(Semaphore::new(settings.connections() as usize)),
            clients: settings.client_bounds().map(Clients::new),
            trusted: settings.trusted_proxies().to_vec(),
            limits: settings.connection_limits(),
            stopping,
            _accepting: accepting,
        }
    }

    /// Waits for a connection whose client may have one more, and then for its place.
    /// Others are closed at once: to let one wait would let all behind it wait.
    async fn next(&self, listener: &Listener, book: &Book) -> Admitted {
        loop {
            let accepted = listener.accept(book.log()).await;
            let address = ClientAddress::new(accepted.address, &self.trusted);
            let claim = match (&self.clients, accepted.address) {
                (Some(clients), Some(ip)) if !address.is_trusted_proxy() => match clients.claim(ip) {
                    Some(claim) => Some(claim),
                    None => {
                        book.stats().connections_refused.inc();
                        continue;
                    }
                },
                _ => None,
            };
            // In this order: a worker without clients must not keep a place from one
            // that has them.
            let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            return Admitted { accepted, address, claim, place };
        }
    }
}

/// Accepts until the server stops, and with it closes the listener. Each connection
/// has a task of its own, which holds its place among `--connections`.
async fn accept(listener: Listener, service: Arc<Service>, connections: Connections) {
    let mut stop = connections.stopping.clone();
    // Every connection looks at it each time that it is polled: so each worker has
    // one of its own.
    let (stopping_here, stopping) = watch::channel(false);
    loop {
        let Admitted { accepted, address, claim, place } = tokio::select! {
            biased;
            _ = stop.wait_for(|stopping| *stopping) => break,
            admitted = connections.next(&listener, service.book()) => admitted,
        };
        let stats = service.book().stats().clone();
        stats.connections_accepted.inc();
        stats.connections.inc();
        let service = service.clone();
        let respond = move |request, client| service.clone().respond(request, client, claim.clone());
        let limits = connections.limits;
        let connection = connection::serve(accepted.stream, address, limits, stopping.clone(), respond);
        tokio::spawn(async move {
            connection.await;
            stats.connections.dec();
            drop(place);
        });
    }
    // Before `_accepting` is dropped: the server ends when nobody accepts, and the file of a
    // Unix socket goes with the last listener.
    drop(listener);
    stopping_here.send_replace(true);
}
