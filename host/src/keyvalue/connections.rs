//! Connections to a database of PostgreSQL, no more than are allowed. They are made when they are
//! needed, and kept. One whose answer does not come has its place until it has ended, since the
//! database may be at work for it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time;
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::operations::{Error, Result};

/// A later form of the table would have another number. Two servers that begin at once would
/// both make it: the lock has a number that nothing else has.
const IS_THERE: &str = "SELECT to_regclass('wasm_serve_keyvalue_1') IS NOT NULL";
const MAKE: &str = "BEGIN; SELECT pg_advisory_xact_lock(8388607163061553441);
    CREATE TABLE IF NOT EXISTS wasm_serve_keyvalue_1 (
        id bigint GENERATED ALWAYS AS IDENTITY, store text NOT NULL, key text NOT NULL, value bytea NOT NULL,
        PRIMARY KEY (store, key));
    CREATE INDEX IF NOT EXISTS wasm_serve_keyvalue_1_id ON wasm_serve_keyvalue_1 (store, id); COMMIT";

/// How long the database is asked to leave off, and how long the end is then waited for.
const END_TIME_MAX: Duration = Duration::from_secs(5);

pub(super) struct Connections {
    config: Config,
    /// None without TLS.
    tls: Option<Arc<ClientConfig>>,
    /// Of those that are in use. Those that are kept are no more than these were at once.
    places: Arc<Semaphore>,
    kept: Mutex<Vec<Connection>>,
}

struct Connection {
    client: Client,
    driven: JoinHandle<()>,
}

/// One that is in use, with its place. When it is dropped before it is given back, it ends.
pub(super) struct Taken {
    of: Arc<Connections>,
    taken: Option<(Connection, OwnedSemaphorePermit)>,
}

impl Taken {
    pub(super) fn client(&self) -> &Client {
        let (connection, _) = self.taken.as_ref().expect("it is there until it is given back");
        &connection.client
    }

    /// For others: nothing is under way by it.
    pub(super) fn give_back(mut self) {
        if let Some((connection, _place)) = self.taken.take() {
            self.of.kept.lock().push(connection);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let (Some((connection, place)), Ok(handle)) = (self.taken.take(), Handle::try_current()) {
            let of = self.of.clone();
            handle.spawn(async move {
                of.end(connection).await;
                drop(place);
            });
        }
    }
}

impl Connections {
    /// What is sent and not acknowledged for `time_max` ends its connection.
    pub(super) fn new(
        mut config: Config,
        tls: Option<Arc<ClientConfig>>,
        connections_max: usize,
        time_max: Duration,
    ) -> Connections {
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(time_max);
        }
        Connections { config, tls, places: Arc::new(Semaphore::new(connections_max)), kept: Mutex::default() }
    }

    pub(super) async fn take(self: &Arc<Self>) -> Result<Taken> {
        let place = self.places.clone().acquire_owned().await.map_err(Error::unavailable)?;
        loop {
            let kept = self.kept.lock().pop();
            match kept {
                Some(connection) if connection.client.is_closed() => {}
                Some(connection) => return Ok(self.taken(connection, place)),
                None => return self.connect(place).await,
            }
        }
    }

    fn taken(self: &Arc<Self>, connection: Connection, place: OwnedSemaphorePermit) -> Taken {
        Taken { of: self.clone(), taken: Some((connection, place)) }
    }

    async fn connect(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Result<Taken> {
        let connection = match self.tls() {
            None => begun(self.config.connect(NoTls).await),
            Some(tls) => begun(self.config.connect(tls).await),
        };
        let taken = self.taken(connection.map_err(unavailable)?, place);
        // A role that may make no tables can use one that is there.
        let is_there = taken.client().query_typed(IS_THERE, &[]).await.map_err(unavailable)?;
        if !is_there.first().is_some_and(|row| row.get(0)) {
            taken.client().batch_execute(MAKE).await.map_err(unavailable)?;
        }
        Ok(taken)
    }

    fn tls(&self) -> Option<MakeRustlsConnect> {
        self.tls.as_ref().map(|tls| MakeRustlsConnect::new(ClientConfig::clone(tls)))
    }

    async fn end(&self, connection: Connection) {
        let Connection { client, mut driven } = connection;
        if !client.is_closed() {
            let cancelled = time::timeout(END_TIME_MAX, self.cancel(client.cancel_token())).await;
            // If no new connection comes about, the others may have gone silent, too.
            if !matches!(cancelled, Ok(Ok(()))) {
                self.kept.lock().clear();
            }
        }
        drop(client);
        if time::timeout(END_TIME_MAX, &mut driven).await.is_err() {
            driven.abort();
        }
    }

    /// The database is asked by a connection of its own.
    async fn cancel(&self, token: CancelToken) -> std::result::Result<(), tokio_postgres::Error> {
        match self.tls() {
            None => token.cancel_query(NoTls).await,
            Some(tls) => token.cancel_query(tls).await,
        }
    }
}

/// It is driven by a task of its own.
fn begun<S, T>(
    connected: std::result::Result<(Client, tokio_postgres::Connection<S, T>), tokio_postgres::Error>,
) -> std::result::Result<Connection, tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = connected?;
    let driven = tokio::spawn(async move {
        // How it ends, whoever asks by it learns.
        let _ = connection.await;
    });
    Ok(Connection { client, driven })
}

/// With what the database says, if it says something, but for the detail, which may have keys and
/// values in it.
pub(super) fn unavailable(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(said) => Error::Unavailable(format!("{}: {}", said.severity(), said.message())),
        None => {
            let causes: Vec<_> = anyhow::Error::from(error).chain().map(ToString::to_string).collect();
            Error::Unavailable(causes.join(": "))
        }
    }
}
