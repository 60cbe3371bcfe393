//! A worker: a thread that accepts connections and runs guests, with a runtime, a
//! listener and a program of its own, so that workers do not wait for each other.
//! What they share is the cores (`dispatch`), the deferred calls, the log and the
//! figures. A connection stays with the worker that accepted it.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::accept::{Bound, Listener};
use crate::callback;
use crate::config::TrustedProxy;
use crate::connection;
use crate::head::ClientAddress;
use crate::request::Service;

/// What one worker is made of.
pub struct Worker {
    pub bound: Bound,
    pub service: Arc<Service>,
    pub deferred: callback::Limits,
    pub connections: Connections,
    /// The server is gone when its other half is.
    pub server: watch::Receiver<()>,
}

/// What each accepted connection is given.
#[derive(Clone)]
pub struct Connections {
    /// One for each connection that may be open.
    pub places: Arc<Semaphore>,
    pub trusted: Vec<TrustedProxy>,
    pub limits: connection::Limits,
    /// True once no more connections shall be accepted.
    pub stopping: watch::Receiver<bool>,
}

impl Worker {
    /// Starts the thread. It ends, and with it what is under way, when the server
    /// is gone.
    pub fn start(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("a worker cannot be started")?;
        let listener = {
            let _inside = runtime.enter();
            self.bound.listener().context("a worker cannot listen")?
        };
        let (service, limits) = (self.service.clone(), self.deferred);
        let handle = runtime.handle().clone();
        self.service.dispatch.on_deferred(move |core, call| {
            handle.spawn(callback::run(service.clone(), limits, core, call));
        });
        let serve = move || serve(&runtime, listener, self.service, self.connections, self.server);
        std::thread::Builder::new()
            .name("worker".into())
            .spawn(serve)
            .context("a worker cannot be started")?;
        Ok(())
    }
}

fn serve(
    runtime: &Runtime,
    listener: Listener,
    service: Arc<Service>,
    connections: Connections,
    mut server: watch::Receiver<()>,
) {
    runtime.block_on(async {
        let dispatch = service.dispatch.clone();
        tokio::spawn(async move { dispatch.start_due().await });
        tokio::spawn(accept(listener, service, connections));
        // The error is what it waits for: nobody can say anything any more.
        while server.changed().await.is_ok() {}
    });
}

/// Accepts until the server stops, and with it closes the listener. Each connection
/// has a task of its own, which holds its place among `--connections`.
async fn accept(listener: Listener, service: Arc<Service>, connections: Connections) {
    let Connections { places, trusted, limits, stopping } = connections;
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
