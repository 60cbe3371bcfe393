//! One store, as guests have it: within its limits, for no longer than its time, and with errors
//! that tell a guest nothing of where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

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
/// Such calls of which there is room at once for what they set or may get.
const BATCHES_AT_ONCE: u64 = 8;
/// Bytes are counted by so many.
const PIECE_BYTES: u64 = 1024;
/// In place of a reason.
const HIDDEN: &str = "the reason has the password in it and is not shown";
const NOT_AVAILABLE: &str = "the store is not available";

pub(crate) struct Store {
    name: String,
    limits: Limits,
    operations: Arc<dyn Operations>,
    at_once: Arc<Semaphore>,
    /// Pieces of what is under way: what a store gives is on no guest's account before the guest
    /// has it, and what it is given may outlive the guest.
    pieces: Arc<Semaphore>,
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
            pieces: Arc::new(Semaphore::new(pieces_max(limits) as usize)),
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
        let values =
            self.within(bytes_max, async move { operations.get(vec![key], bytes_max).await }).await?;
        Ok(values.into_iter().next().flatten())
    }

    /// In the order of the keys.
    pub(crate) async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>> {
        check_keys(&keys)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (operations, bytes_max) = (self.operations.clone(), self.batch_bytes_max());
        self.within(bytes_max, async move { operations.get(keys, bytes_max).await }).await
    }

    pub(crate) async fn exists(&self, key: String) -> Result<bool> {
        check_key(&key)?;
        let operations = self.operations.clone();
        self.within(0, async move { operations.exists(key).await }).await
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
        let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() as u64;
        let operations = self.operations.clone();
        self.within(bytes, async move { operations.set(pairs.into_iter().collect()).await }).await
    }

    pub(crate) async fn delete_many(&self, mut keys: Vec<String>) -> Result<()> {
        check_keys(&keys)?;
        if keys.is_empty() {
            return Ok(());
        }
        keys.sort_unstable();
        let bytes = keys.iter().map(String::len).sum::<usize>() as u64;
        let operations = self.operations.clone();
        self.within(bytes, async move { operations.delete(keys).await }).await
    }

    pub(crate) async fn list(&self, from: Option<u64>) -> Result<Page> {
        let operations = self.operations.clone();
        let bytes_max = (KEYS_MAX * KEY_BYTES_MAX) as u64;
        self.within(bytes_max, async move { operations.list(from).await }).await
    }

    /// Adds, unless the sum would be below the least.
    pub(crate) async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64> {
        check_key(&key)?;
        let operations = self.operations.clone();
        self.within(0, async move { operations.increment(key, delta, least).await }).await
    }

    /// Sets the value if the present one is `old`. Gives whether it was.
    pub(crate) async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool> {
        check_key(&key)?;
        self.check_value(new.len())?;
        let bytes = (old.as_ref().map_or(0, Vec::len) + new.len()) as u64;
        let operations = self.operations.clone();
        self.within(bytes, async move { operations.swap(key, old, new).await }).await
    }

    fn batch_bytes_max(&self) -> u64 {
        batch_bytes_max(self.limits)
    }

    /// What waits for its turn ends when its guest does. What was begun of a store that is reached by
    /// connections goes on where these live, so that none is left in the middle.
    async fn within<T: Send + 'static>(
        &self,
        bytes: u64,
        asked: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + self.limits.time_max;
        let done = match timeout_at(deadline, self.room(bytes)).await {
            Ok(Ok(room)) => self.begin(deadline, room, asked).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.late()),
        };
        done.map_err(|error| self.told(error))
    }

    async fn room(&self, bytes: u64) -> Result<Room> {
        let place = self.at_once.clone().acquire_owned().await.map_err(Error::unavailable)?;
        let pieces = bytes.div_ceil(PIECE_BYTES).min(pieces_max(self.limits)) as u32;
        let pieces = self.pieces.clone().acquire_many_owned(pieces).await.map_err(Error::unavailable)?;
        Ok(Room { _place: place, _pieces: pieces })
    }

    async fn begin<T: Send + 'static>(
        &self,
        deadline: Instant,
        room: Room,
        asked: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let in_time = async move { (timeout_at(deadline, asked).await, room) };
        // The room is taken until what came is here.
        let (done, _room) = match &self.thread {
            None => in_time.await,
            Some(thread) => {
                let handle = thread.handle();
                let handle =
                    handle.ok_or_else(|| Error::unavailable("there is no thread for its connections"))?;
                handle.spawn(in_time).await.map_err(Error::unavailable)?
            }
        };
        done.unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> Error {
        Error::Unavailable(format!("no answer within {} s", self.limits.time_max.as_secs_f64()))
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

/// What something takes that is under way.
struct Room {
    _place: OwnedSemaphorePermit,
    _pieces: OwnedSemaphorePermit,
}

fn batch_bytes_max(limits: Limits) -> u64 {
    BATCH_BYTES_MAX.max(limits.value_bytes_max) as u64
}

fn pieces_max(limits: Limits) -> u64 {
    BATCHES_AT_ONCE * batch_bytes_max(limits).div_ceil(PIECE_BYTES)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::sync::Notify;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// What is asked of it waits to be let go, and is counted.
    #[derive(Default)]
    struct Held {
        begun: AtomicUsize,
        go: Notify,
    }

    impl Held {
        async fn hold<T>(&self, answer: T) -> Result<T> {
            let go = self.go.notified();
            self.begun.fetch_add(1, Ordering::SeqCst);
            go.await;
            Ok(answer)
        }

        async fn wait_for(&self, begun: usize) {
            while self.begun.load(Ordering::SeqCst) < begun {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[async_trait]
    impl Operations for Arc<Held> {
        async fn get(&self, keys: Vec<String>, _: u64) -> Result<Vec<Option<Vec<u8>>>> {
            self.hold(vec![None; keys.len()]).await
        }

        async fn exists(&self, _: String) -> Result<bool> {
            self.hold(true).await
        }

        async fn set(&self, _: Vec<Pair>) -> Result<()> {
            self.hold(()).await
        }

        async fn delete(&self, _: Vec<String>) -> Result<()> {
            self.hold(()).await
        }

        async fn list(&self, _: Option<u64>) -> Result<Page> {
            self.hold(Page { keys: Vec::new(), next: None }).await
        }

        async fn increment(&self, _: String, delta: i64, _: i64) -> Result<i64> {
            self.hold(delta).await
        }

        async fn swap(&self, _: String, _: Option<Vec<u8>>, _: Vec<u8>) -> Result<bool> {
            self.hold(true).await
        }
    }

    /// One that is reached by connections.
    fn store(held: &Arc<Held>) -> Arc<Store> {
        let limits = Limits {
            value_bytes_max: 1 << 20,
            memory_bytes_max: 0,
            connections_max: 1,
            time_max: Duration::from_secs(600),
        };
        let place = Place::read("redis://127.0.0.1:1/0").expect("a place");
        let log = Log::open(None, Default::default()).expect("standard error is there");
        let mut store = Store::new("s".to_owned(), place, limits, None, &Arc::default(), log);
        store.operations = Arc::new(held.clone());
        Arc::new(store)
    }

    #[tokio::test]
    async fn what_waits_for_its_turn_ends_with_its_guest() {
        let held = Arc::new(Held::default());
        let store = store(&held);
        for _ in 0..AT_ONCE {
            let store = store.clone();
            tokio::spawn(async move { store.exists("k".to_owned()).await });
        }
        held.wait_for(AT_ONCE).await;
        let late = timeout(Duration::from_millis(50), store.exists("k".to_owned())).await;
        assert!(late.is_err());
        held.go.notify_waiters();
        // What comes next finds nothing of it before it.
        let last = tokio::spawn(async move { store.exists("k".to_owned()).await });
        held.wait_for(AT_ONCE + 1).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(held.begun.load(Ordering::SeqCst), AT_ONCE + 1);
        held.go.notify_waiters();
        assert!(matches!(last.await, Ok(Ok(true))));
    }

    #[tokio::test]
    async fn no_more_is_under_way_than_there_is_room_for() {
        let held = Arc::new(Held::default());
        let store = store(&held);
        let room = BATCHES_AT_ONCE as usize;
        for _ in 0..2 * room {
            let store = store.clone();
            tokio::spawn(async move { store.get_many(vec!["k".to_owned()]).await });
        }
        held.wait_for(room).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(held.begun.load(Ordering::SeqCst), room);
        held.go.notify_waiters();
        held.wait_for(2 * room).await;
    }
}
