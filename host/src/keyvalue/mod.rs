//! Key-value stores, which are granted to guests by name. It knows nothing of WebAssembly or HTTP.

/// Connections to databases of PostgreSQL.
mod connections;
/// Stores in the server's memory.
mod memory;
/// What a store can be asked.
mod operations;
/// Where a store is.
mod place;
/// Stores in databases of PostgreSQL.
mod postgres;
/// Stores in databases of Redis.
mod redis;
/// Stores in files of SQLite.
mod sqlite;
/// One store within its limits.
mod store;
/// Where connections live.
mod thread;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ClientConfig;

pub(crate) use self::operations::{Error, Page, Pair};
pub(crate) use self::place::{Limits, NAME_BYTES_MAX, Place, is_name};
pub(crate) use self::store::Store;
use self::thread::Thread;
use crate::telemetry::log::Log;
use crate::telemetry::told::Told;
use crate::terminal::escape;

/// A store by the name that guests open it by.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub name: String,
    pub place: Place,
}

/// The stores that are granted to the guests of a server.
pub(crate) struct Stores {
    by_name: HashMap<String, Arc<Store>>,
    told: Told,
    log: Log,
}

impl Stores {
    /// Nothing is opened or connected to before a guest asks for something. `tls` is for those
    /// that are reached by it.
    pub(crate) fn new(grants: &[Grant], limits: Limits, tls: Option<Arc<ClientConfig>>, log: Log) -> Stores {
        let thread = Arc::new(Thread::default());
        let store = |Grant { name, place }: &Grant| {
            let store = Store::new(name.clone(), place.clone(), limits, tls.clone(), &thread, log.clone());
            (name.clone(), Arc::new(store))
        };
        Stores { by_name: grants.iter().map(store).collect(), told: Told::default(), log: log.clone() }
    }

    /// What could be no store's name is told to nobody: what is said is to be written down as it is.
    pub(crate) fn open(&self, name: &str) -> Result<Arc<Store>, Error> {
        if let Some(store) = self.by_name.get(name) {
            return Ok(store.clone());
        }
        if is_name(name) && self.told.is_new(name) {
            let name = escape::text(name);
            self.log.server(format_args!(
                "the key-value store \"{name}\" is not granted to the guest; to grant it, add --keyvalue '{name}=sqlite:FILE', or another place for it"
            ));
        }
        Err(Error::NoSuchStore)
    }
}
