//! A store in a file of SQLite. Its thread opens the file when it is first asked, and again after
//! an error. What waits meanwhile is done in one transaction, since each is waited for until it is
//! on the disk. In it each write is whole by itself: one that fails takes back what it has done.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, ffi, params};
use tokio::sync::oneshot;

use super::operations::{Error, KEYS_MAX, Operations, Page, Pair, Result, Room, sum};
use crate::memory::account::OnNoAccount;

/// A later form of the table would have another number.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS wasm_serve_keyvalue_1 (
    id INTEGER PRIMARY KEY, store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (store, key))";
const GET: &str = "SELECT value FROM wasm_serve_keyvalue_1 WHERE store = ?1 AND key = ?2";
const GET_LENGTH: &str = "SELECT length(value) FROM wasm_serve_keyvalue_1 WHERE store = ?1 AND key = ?2";
const SET: &str = "INSERT INTO wasm_serve_keyvalue_1 (store, key, value) VALUES (?1, ?2, ?3)
    ON CONFLICT (store, key) DO UPDATE SET value = excluded.value";
const DELETE: &str = "DELETE FROM wasm_serve_keyvalue_1 WHERE store = ?1 AND key = ?2";
const LIST: &str =
    "SELECT id, key FROM wasm_serve_keyvalue_1 WHERE store = ?1 AND id >= ?2 ORDER BY id LIMIT ?3";

/// What is done in one transaction, and what may wait for that.
const WORK_MAX: usize = 256;

pub(super) struct Sqlite {
    file: PathBuf,
    name: String,
    time_max: Duration,
    /// None while there is no thread for it.
    work: Mutex<Option<SyncSender<Box<dyn Work>>>>,
}

impl Sqlite {
    /// `name` tells the stores of one file from each other.
    pub(super) fn new(file: PathBuf, name: String, time_max: Duration) -> Sqlite {
        Sqlite { file, name, time_max, work: Mutex::default() }
    }

    async fn ask<T: Send + 'static>(
        &self,
        is_write: bool,
        work: impl FnOnce(&Table<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let asked = Asked { is_write, work: Some(work), done: None, sender };
        self.send(Box::new(asked))?;
        receiver.await.unwrap_or_else(|_| Err(Error::unavailable("its thread has ended")))
    }

    /// A thread that has ended, or could not be started, is started when the next is sent.
    fn send(&self, asked: Box<dyn Work>) -> Result<()> {
        let mut work = self.work.lock();
        if work.is_none() {
            *work = self.start();
        }
        let thread = work.as_ref().ok_or_else(|| Error::unavailable("there is no thread for it"))?;
        match thread.try_send(asked) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Error::unavailable("too much waits for the file")),
            Err(TrySendError::Disconnected(_)) => {
                *work = None;
                Err(Error::unavailable("its thread has ended"))
            }
        }
    }

    fn start(&self) -> Option<SyncSender<Box<dyn Work>>> {
        // It serves all guests, whichever is the first.
        let _for_the_server = OnNoAccount::begin();
        let (sender, receiver) = sync_channel(WORK_MAX);
        let (file, name, time_max) = (self.file.clone(), self.name.clone(), self.time_max);
        let mut thread = Thread { file, name, time_max, connection: None };
        let started =
            std::thread::Builder::new().name("keyvalue".into()).spawn(move || thread.run(&receiver));
        started.ok().map(|_| sender)
    }
}

/// What is to be done with the table, by whom it is waited for.
trait Work: Send {
    fn is_write(&self) -> bool;
    /// Somebody still waits for it.
    fn is_wanted(&self) -> bool;
    /// After an error of its own the transaction can go on; after one that this gives, not.
    fn run(&mut self, table: &Table<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: &std::result::Result<(), String>);
}

struct Asked<T, F> {
    is_write: bool,
    work: Option<F>,
    done: Option<Result<T>>,
    sender: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnOnce(&Table<'_>) -> Result<T> + Send> Work for Asked<T, F> {
    fn is_write(&self) -> bool {
        self.is_write
    }

    fn is_wanted(&self) -> bool {
        !self.sender.is_closed()
    }

    fn run(&mut self, table: &Table<'_>) -> rusqlite::Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        if !self.is_write {
            self.done = Some(work(table));
            return Ok(());
        }
        table.execute("SAVEPOINT one")?;
        let done = self.done.insert(work(table));
        if table.is_over() {
            return Ok(());
        }
        if done.is_err() {
            table.execute("ROLLBACK TO one")?;
        }
        table.execute("RELEASE one")
    }

    fn answer(self: Box<Self>, committed: &std::result::Result<(), String>) {
        let done = match (committed, self.done) {
            (Ok(()), Some(done)) => done,
            (Ok(()), None) => Err(Error::unavailable("nothing was done")),
            (Err(_), Some(Err(error))) => Err(error),
            (Err(why), _) => Err(Error::unavailable(why)),
        };
        // Whoever waited may have left.
        let _ = self.sender.send(done);
    }
}

/// The thread that has the file.
struct Thread {
    file: PathBuf,
    name: String,
    time_max: Duration,
    connection: Option<Connection>,
}

impl Thread {
    /// Ends when the store does.
    fn run(&mut self, asked: &Receiver<Box<dyn Work>>) {
        while let Ok(first) = asked.recv() {
            let mut work = vec![first];
            work.extend(asked.try_iter().take(WORK_MAX - 1));
            work.retain(|work| work.is_wanted());
            if work.is_empty() {
                continue;
            }
            let committed = self.transact(&mut work).map_err(|error| error.to_string());
            if committed.is_err() {
                self.connection = None;
            }
            work.into_iter().for_each(|work| work.answer(&committed));
        }
    }

    fn transact(&mut self, work: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(open(&self.file, self.time_max)?),
        };
        let behavior = match work.iter().any(|work| work.is_write()) {
            true => TransactionBehavior::Immediate,
            false => TransactionBehavior::Deferred,
        };
        let transaction = connection.transaction_with_behavior(behavior)?;
        let table = Table { connection: &transaction, store: &self.name };
        for work in work {
            work.run(&table)?;
            if table.is_over() {
                let why = Some("SQLite has ended the transaction".to_owned());
                return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK), why));
            }
        }
        transaction.commit()
    }
}

fn open(file: &PathBuf, time_max: Duration) -> rusqlite::Result<Connection> {
    // Nobody else may read what is in it. The files beside it get the same mode.
    let made = File::options().write(true).create_new(true).mode(0o600).open(file);
    if let Err(error) = made
        && error.kind() != ErrorKind::AlreadyExists
    {
        let code = ffi::Error::new(ffi::SQLITE_CANTOPEN);
        return Err(rusqlite::Error::SqliteFailure(code, Some(error.to_string())));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Another server may be writing.
    connection.busy_timeout(time_max)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute(TABLE, [])?;
    Ok(connection)
}

/// What a store has of the table.
struct Table<'a> {
    connection: &'a Connection,
    store: &'a str,
}

impl Table<'_> {
    /// After some errors, as of a disk that is full, there is no transaction any more.
    fn is_over(&self) -> bool {
        self.connection.is_autocommit()
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(drop)
    }

    fn value(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut statement = self.connection.prepare_cached(GET)?;
        Ok(statement.query_row(params![self.store, key], |row| row.get(0)).optional()?)
    }

    fn length(&self, key: &str) -> Result<Option<usize>> {
        let mut statement = self.connection.prepare_cached(GET_LENGTH)?;
        let length: Option<i64> =
            statement.query_row(params![self.store, key], |row| row.get(0)).optional()?;
        Ok(length.map(|length| length as usize))
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.connection.prepare_cached(SET)?.execute(params![self.store, key, value])?;
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.connection.prepare_cached(DELETE)?.execute(params![self.store, key])?;
        Ok(())
    }

    fn page(&self, from: Option<u64>) -> Result<Page> {
        // No number is greater than those that SQLite has.
        let from = i64::try_from(from.unwrap_or(0)).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(LIST)?;
        let rows = statement.query_map(params![self.store, from, KEYS_MAX as i64 + 1], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
        let next = rows.get(KEYS_MAX).map(|(id, _)| *id as u64);
        rows.truncate(KEYS_MAX);
        Ok(Page { keys: rows.into_iter().map(|(_, key)| key).collect(), next })
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::unavailable(error)
    }
}

#[async_trait]
impl Operations for Sqlite {
    async fn get(&self, keys: Vec<String>, bytes_max: u64) -> Result<Vec<Option<Vec<u8>>>> {
        let work = move |table: &Table<'_>| {
            let mut room = Room::of(bytes_max);
            let value = |key: &String| match table.length(key)? {
                Some(length) => room.take(length).and_then(|()| table.value(key)),
                None => Ok(None),
            };
            keys.iter().map(value).collect()
        };
        self.ask(false, work).await
    }

    async fn exists(&self, key: String) -> Result<bool> {
        self.ask(false, move |table| Ok(table.length(&key)?.is_some())).await
    }

    async fn set(&self, pairs: Vec<Pair>) -> Result<()> {
        self.ask(true, move |table| pairs.iter().try_for_each(|(key, value)| table.set(key, value))).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<()> {
        self.ask(true, move |table| keys.iter().try_for_each(|key| table.delete(key))).await
    }

    async fn list(&self, from: Option<u64>) -> Result<Page> {
        self.ask(false, move |table| table.page(from)).await
    }

    async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64> {
        let work = move |table: &Table<'_>| {
            let sum = sum(table.value(&key)?.as_deref(), delta, least)?;
            table.set(&key, sum.to_string().as_bytes())?;
            Ok(sum)
        };
        self.ask(true, work).await
    }

    async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool> {
        let work = move |table: &Table<'_>| {
            // One of another length is not read.
            if table.length(&key)? != old.as_ref().map(Vec::len) || table.value(&key)? != old {
                return Ok(false);
            }
            table.set(&key, &new)?;
            Ok(true)
        };
        self.ask(true, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_TEST: &str = "wanted for the test";

    /// A file in which setting `b` ends as is said.
    fn thread(folder: &std::path::Path, ends: &str) -> Thread {
        let file = folder.join("store.db");
        let connection = open(&file, Duration::from_secs(5)).expect(FOR_TEST);
        connection
            .execute_batch(&format!(
                "CREATE TRIGGER refuse BEFORE INSERT ON wasm_serve_keyvalue_1 WHEN new.key = 'b'
                 BEGIN SELECT RAISE({ends}, 'refused'); END"
            ))
            .expect(FOR_TEST);
        Thread { file, name: "s".to_owned(), time_max: Duration::from_secs(5), connection: Some(connection) }
    }

    type Answer = oneshot::Receiver<Result<()>>;

    fn set(keys: &'static [&'static str]) -> (Box<dyn Work>, Answer) {
        let (sender, receiver) = oneshot::channel();
        let work = move |table: &Table<'_>| keys.iter().try_for_each(|key| table.set(key, b"1"));
        (Box::new(Asked { is_write: true, work: Some(work), done: None, sender }), receiver)
    }

    /// Whether each is done, and the keys that are there then.
    fn done(thread: &mut Thread, asked: [&'static [&'static str]; 3]) -> (Vec<bool>, Vec<String>) {
        let (mut work, answers): (Vec<_>, Vec<Answer>) = asked.into_iter().map(set).unzip();
        let committed = thread.transact(&mut work).map_err(|error| error.to_string());
        work.into_iter().for_each(|work| work.answer(&committed));
        let done = answers.into_iter().map(|mut answer| answer.try_recv().expect(FOR_TEST).is_ok()).collect();
        let connection = open(&thread.file, thread.time_max).expect(FOR_TEST);
        let keys = Table { connection: &connection, store: "s" }.page(None).expect(FOR_TEST).keys;
        (done, keys)
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_and_others_are_done() {
        for (ends, expected, keys) in [
            ("FAIL", vec![true, false, true], vec!["x", "y"]),
            ("ABORT", vec![true, false, true], vec!["x", "y"]),
            // It ends the transaction, as a disk that is full does.
            ("ROLLBACK", vec![false, false, false], vec![]),
        ] {
            let folder = tempfile::tempdir().expect(FOR_TEST);
            let mut thread = thread(folder.path(), ends);
            let found = done(&mut thread, [&["x"], &["a", "b", "c"], &["y"]]);
            assert_eq!(found, (expected, keys.into_iter().map(str::to_owned).collect()), "{ends}");
        }
    }
}
