//! One store, as guests have it: within its limits, for no longer than its time, and with errors
//! that tell a guest nothing of where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time;

use super::operations::{Error, KEY_BYTES_MAX, KEYS_MAX, Operations, Page, Pair, Result};
use super::place::{Limits, Place};
use super::thread::Thread;
use crate::telemetry::log::Log;
use crate::telemetry::told::Told;
use crate::terminal::escape;

/// What a store is asked at once; one more waits.
const AT_ONCE: usize = 256;
/// Bytes of the values of one call, unless a single value may have more.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// In place of a reason.
const HIDDEN: &str = "the reason has the password in it and is not shown";
const NOT_AVAILABLE: &str = "the store is not available";

pub(crate) struct Store {
    name: String,
    limits: Limits,
    operations: Arc<dyn Operations>,
    at_once: Arc<Semaphore>,
    /// Where connections live, of a store that has some.
    thread: Option<Arc<Thread>>,
    password: Option<String>,
    told: Told,
    log: Log,
}

impl Store {
    pub(super) fn new(
        name: String,
        place: Place,
        limits: Limits,
        tls: Option<Arc<rustls::ClientConfig>>,
        thread: &Arc<Thread>,
        log: Log,
    ) -> Store {
        Store {
            limits,
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            thread: place.is_remote().then(|| thread.clone()),
            password: place.password().filter(|password| !password.is_empty()),
            told: Told::default(),
            log,
            operations: place.store(&name, limits, tls),
            name,
        }
    }

    /// Refuses a value before it is copied out of a guest.
    pub(crate) fn check_value(&self, bytes: usize) -> Result<()> {
        match bytes > self.limits.value_bytes_max {
            true => Err(Error::Refused(format!("a value of over {} bytes", self.limits.value_bytes_max))),
            false => Ok(()),
        }
    }

    /// The same for the values of one call.
    pub(crate) fn check_values(&self, sizes: impl IntoIterator<Item = usize>) -> Result<()> {
        let (mut count, mut all) = (0, 0_usize);
        for bytes in sizes {
            self.check_value(bytes)?;
            (count, all) = (count + 1, all.saturating_add(bytes));
        }
        check_count(count)?;
        match all as u64 > self.batch_bytes_max() {
            true => Err(Error::too_many_bytes(self.batch_bytes_max())),
            false => Ok(()),
        }
    }

    pub(crate) async fn get(&self, key: String) -> Result<Option<Vec<u8>>> {
        check_key(&key)?;
        let (operations, bytes_max) = (self.operations.clone(), self.limits.value_bytes_max as u64);
        let values = self.within(async move { operations.get(vec![key], bytes_max).await }).await?;
        Ok(values.into_iter().next().flatten())
    }

    /// In the order of the keys.
    pub(crate) async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>> {
        check_keys(&keys)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (operations, bytes_max) = (self.operations.clone(), self.batch_bytes_max());
        self.within(async move { operations.get(keys, bytes_max).await }).await
    }

    pub(crate) async fn exists(&self, key: String) -> Result<bool> {
        check_key(&key)?;
        let operations = self.operations.clone();
        self.within(async move { operations.exists(key).await }).await
    }

    /// Of a key that is there twice the last value counts.
    pub(crate) async fn set_many(&self, pairs: Vec<Pair>) -> Result<()> {
        self.check_values(pairs.iter().map(|(_, value)| value.len()))?;
        pairs.iter().try_for_each(|(key, _)| check_key(key))?;
        if pairs.is_empty() {
            return Ok(());
        }
        // In one order, two servers never wait for each other.
        let pairs: BTreeMap<String, Vec<u8>> = pairs.into_iter().collect();
        let operations = self.operations.clone();
        self.within(async move { operations.set(pairs.into_iter().collect()).await }).await
    }

    pub(crate) async fn delete_many(&self, mut keys: Vec<String>) -> Result<()> {
        check_keys(&keys)?;
        if keys.is_empty() {
            return Ok(());
        }
        keys.sort_unstable();
        let operations = self.operations.clone();
        self.within(async move { operations.delete(keys).await }).await
    }

    pub(crate) async fn list(&self, from: Option<u64>) -> Result<Page> {
        let operations = self.operations.clone();
        self.within(async move { operations.list(from).await }).await
    }

    /// Adds, unless the sum would be below the least.
    pub(crate) async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64> {
        check_key(&key)?;
        let operations = self.operations.clone();
        self.within(async move { operations.increment(key, delta, least).await }).await
    }

    /// Sets the value if the present one is `old`. Gives whether it was.
    pub(crate) async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool> {
        check_key(&key)?;
        self.check_value(new.len())?;
        let operations = self.operations.clone();
        self.within(async move { operations.swap(key, old, new).await }).await
    }

    fn batch_bytes_max(&self) -> u64 {
        BATCH_BYTES_MAX.max(self.limits.value_bytes_max) as u64
    }

    /// What waits for it ends when its guest does. What was begun of a store that is reached by
    /// connections goes on where these live, so that none is left in the middle.
    async fn within<T: Send + 'static>(
        &self,
        asked: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (at_once, time_max) = (self.at_once.clone(), self.limits.time_max);
        let in_time = async move {
            let in_turn = async move {
                let _place = at_once.acquire_owned().await.map_err(Error::unavailable)?;
                asked.await
            };
            let late = |_| Error::Unavailable(format!("no answer within {} s", time_max.as_secs_f64()));
            time::timeout(time_max, in_turn).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
        };
        let done = match &self.thread {
            None => in_time.await,
            Some(thread) => match thread.handle() {
                Some(handle) => spawned(&handle, in_time).await,
                None => Err(Error::unavailable("there is no thread for its connections")),
            },
        };
        done.map_err(|error| self.told(error))
    }

    /// What is wrong with the store is told to the operator; guests learn that something is.
    fn told(&self, error: Error) -> Error {
        let Error::Unavailable(why) = error else { return error };
        // What is left of a reason could show what is taken out, as its length or by what is repeated.
        let why = match &self.password {
            Some(password) if why.contains(password.as_str()) => HIDDEN.to_owned(),
            _ => why,
        };
        if self.told.is_new(&why) {
            let (name, why) = (escape::text(&self.name), escape::text(&why));
            self.log.server(format_args!("the key-value store \"{name}\" is not available: {why}"));
        }
        Error::Unavailable(NOT_AVAILABLE.to_owned())
    }
}

async fn spawned<T: Send + 'static>(
    handle: &Handle,
    asked: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    handle.spawn(asked).await.unwrap_or_else(|error| Err(Error::unavailable(error)))
}

fn check_key(key: &str) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::Refused(format!("a key of over {KEY_BYTES_MAX} bytes")));
    }
    match key.contains('\0') {
        true => Err(Error::Refused("a key with a zero in it".to_owned())),
        false => Ok(()),
    }
}

fn check_keys(keys: &[String]) -> Result<()> {
    check_count(keys.len())?;
    keys.iter().try_for_each(|key| check_key(key))
}

fn check_count(keys: usize) -> Result<()> {
    match keys > KEYS_MAX {
        true => Err(Error::Refused(format!("over {KEYS_MAX} keys in one call"))),
        false => Ok(()),
    }
}
