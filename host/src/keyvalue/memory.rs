//! A store in the server's memory, which is gone when the server is.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::operations::{Error, KEYS_MAX, Operations, Page, Pair, Result, Room, sum};
use crate::memory::account::OnNoAccount;

/// What an entry takes beside its key, twice, and its value.
const ENTRY_BYTES: u64 = 150;

pub(super) struct Memory {
    bytes_max: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<Box<str>, Entry>,
    /// The keys in the order in which they came.
    order: BTreeMap<u64, Box<str>>,
    numbers: u64,
    bytes: u64,
}

struct Entry {
    number: u64,
    value: Box<[u8]>,
}

impl Memory {
    pub(super) fn new(bytes_max: u64) -> Memory {
        Memory { bytes_max, kept: Mutex::default() }
    }
}

impl Kept {
    fn value(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| &*entry.value)
    }

    /// All of them, or none if there is no room for all.
    fn set(&mut self, pairs: &[(&str, &[u8])], bytes_max: u64) -> Result<()> {
        let before = |key: &str| self.entries.get(key).map_or(0, |entry| bytes(key, &entry.value));
        let (mut fewer, mut more) = (0, 0);
        for (key, value) in pairs {
            (fewer, more) = (fewer + before(key), more + bytes(key, value));
        }
        let bytes = self.bytes + more - fewer;
        if bytes > bytes_max {
            return Err(Error::Refused(format!("the store is full: it holds {bytes_max} bytes")));
        }
        self.bytes = bytes;
        pairs.iter().for_each(|(key, value)| self.put(key, value));
        Ok(())
    }

    /// Copies of what guests gave, since that is on their accounts.
    fn put(&mut self, key: &str, value: &[u8]) {
        let _for_the_server = OnNoAccount::begin();
        match self.entries.get_mut(key) {
            Some(entry) => entry.value = value.into(),
            None => {
                self.numbers += 1;
                self.order.insert(self.numbers, key.into());
                self.entries.insert(key.into(), Entry { number: self.numbers, value: value.into() });
            }
        }
    }

    fn delete(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.number);
            self.bytes -= bytes(key, &entry.value);
        }
    }
}

fn bytes(key: &str, value: &[u8]) -> u64 {
    ENTRY_BYTES + 2 * key.len() as u64 + value.len() as u64
}

#[async_trait]
impl Operations for Memory {
    async fn get(&self, keys: Vec<String>, bytes_max: u64) -> Result<Vec<Option<Vec<u8>>>> {
        let (kept, mut room) = (self.kept.lock(), Room::of(bytes_max));
        let value = |key: &String| match kept.value(key) {
            Some(value) => room.take(value.len()).map(|()| Some(value.to_vec())),
            None => Ok(None),
        };
        keys.iter().map(value).collect()
    }

    async fn exists(&self, key: String) -> Result<bool> {
        Ok(self.kept.lock().entries.contains_key(key.as_str()))
    }

    async fn set(&self, pairs: Vec<Pair>) -> Result<()> {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        self.kept.lock().set(&pairs, self.bytes_max)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<()> {
        let mut kept = self.kept.lock();
        keys.iter().for_each(|key| kept.delete(key));
        Ok(())
    }

    async fn list(&self, from: Option<u64>) -> Result<Page> {
        let kept = self.kept.lock();
        let mut left = kept.order.range(from.unwrap_or(0)..);
        let keys = left.by_ref().take(KEYS_MAX).map(|(_, key)| key.to_string()).collect();
        Ok(Page { keys, next: left.next().map(|(number, _)| *number) })
    }

    async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64> {
        let mut kept = self.kept.lock();
        let sum = sum(kept.value(&key), delta, least)?;
        kept.set(&[(&key, sum.to_string().as_bytes())], self.bytes_max)?;
        Ok(sum)
    }

    async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool> {
        let mut kept = self.kept.lock();
        if kept.value(&key) != old.as_deref() {
            return Ok(false);
        }
        kept.set(&[(&key, &new)], self.bytes_max)?;
        Ok(true)
    }
}
