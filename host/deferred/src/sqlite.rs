//! Calls in a file of SQLite, which several servers of one machine may share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::clock;
use crate::queue::{Limits, ScheduleError, TimerId};
use crate::store::{Claim, Claimed, Counts, New, Next, Run, Store, UnixNanos};

/// Another server writes for milliseconds.
const BUSY_TIME_MAX: Duration = Duration::from_secs(4);
/// "wasmserv" in ASCII is too long for it: the first four letters.
const APPLICATION: i32 = 0x7761_736d;
/// Of the tables below. A file of a later one is refused.
const VERSION: i32 = 1;

/// `visible` is when a server may claim the call: its due time, the end of a lease, or nothing once it was
/// set aside. Numbers are never used twice, so that who cancels a call never meets another one.
const TABLES: &str = "
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    pending INTEGER NOT NULL DEFAULT 0,
    payload_bytes INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE calls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL REFERENCES queues (id),
    scheduled INTEGER NOT NULL,
    due INTEGER NOT NULL,
    visible INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER,
    error TEXT,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX calls_by_time ON calls (queue, visible) WHERE visible IS NOT NULL;
CREATE INDEX calls_set_aside ON calls (queue, set_aside) WHERE set_aside IS NOT NULL;
";

/// A queue in a file.
pub struct Sqlite {
    file: PathBuf,
    queue: String,
    /// None until it is used, and after an error.
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    queue: i64,
    /// What the transaction changes of the queue's figures.
    change: Change,
}

#[derive(Default)]
struct Change {
    pending: i64,
    payload_bytes: i64,
    set_aside: i64,
}

impl Sqlite {
    /// Opens the file, or makes it.
    pub fn open(file: &Path, queue: &str) -> Result<Sqlite> {
        let open = Open::new(file, queue)?;
        Ok(Sqlite { file: file.to_owned(), queue: queue.to_owned(), open: Some(open) })
    }

    /// For what is not asked by a server.
    pub(crate) fn parts(&mut self) -> Result<(&Connection, i64)> {
        let open = self.opened()?;
        Ok((&open.connection, open.queue))
    }

    /// Notes what the transaction changes of the queue's figures.
    pub(crate) fn change(&mut self, pending: i64, payload_bytes: i64, set_aside: i64) -> Result<()> {
        let change = &mut self.opened()?.change;
        change.pending += pending;
        change.payload_bytes += payload_bytes;
        change.set_aside += set_aside;
        Ok(())
    }

    fn opened(&mut self) -> Result<&mut Open> {
        self.open.as_mut().context("it is not open")
    }
}

impl Open {
    fn new(file: &Path, queue: &str) -> Result<Open> {
        let mut connection = Connection::open(file)?;
        connection.busy_timeout(BUSY_TIME_MAX)?;
        // Before anything in it is changed.
        is_new(&connection)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        ensure!(mode == "wal", "its journal is {mode}, not wal: is it on a disk of this machine?");
        connection.pragma_update(None, "synchronous", "full")?;
        let tables = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if is_new(&tables)? {
            tables.execute_batch(TABLES)?;
            tables.pragma_update(None, "application_id", APPLICATION)?;
            tables.pragma_update(None, "user_version", VERSION)?;
        }
        tables.execute("INSERT INTO queues (name) VALUES (?1) ON CONFLICT DO NOTHING", [queue])?;
        let queue = tables.query_row("SELECT id FROM queues WHERE name = ?1", [queue], |row| row.get(0))?;
        tables.commit()?;
        Ok(Open { connection, queue, change: Change::default() })
    }

    fn counts(&self) -> Result<Counts> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT pending, payload_bytes, set_aside FROM queues WHERE id = ?1")?;
        let (pending, payload_bytes, set_aside): (i64, i64, i64) =
            statement.query_row([self.queue], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(Counts {
            pending: (pending + self.change.pending) as u64,
            payload_bytes: (payload_bytes + self.change.payload_bytes) as u64,
            set_aside: (set_aside + self.change.set_aside) as u64,
        })
    }

    fn payload_bytes(&self, id: TimerId) -> Result<i64> {
        let mut statement =
            self.connection.prepare_cached("SELECT length(payload) FROM calls WHERE id = ?1")?;
        Ok(statement.query_row([id as i64], |row| row.get(0))?)
    }

    /// Sets those aside whose servers have ended in each of their runs.
    fn set_aside_worn_out(&mut self, claim: &Claim) -> Result<()> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE calls SET visible = NULL, set_aside = ?2, claimed = 0,
                 error = coalesce(error || '; then ', '') || 'the server ended while it ran'
             WHERE queue = ?1 AND visible <= ?2 AND attempt >= ?3 RETURNING length(payload)",
        )?;
        let bytes = statement
            .query_map(params![self.queue, time(claim.now), claim.attempts_max], |row| row.get::<_, i64>(0))?
            .collect::<Result<Vec<i64>, _>>()?;
        self.change.pending -= bytes.len() as i64;
        self.change.payload_bytes -= bytes.iter().sum::<i64>();
        self.change.set_aside += bytes.len() as i64;
        Ok(())
    }
}

impl Store for Sqlite {
    fn begin(&mut self) -> Result<()> {
        if self.open.is_none() {
            self.open = Some(Open::new(&self.file, &self.queue)?);
        }
        let open = self.opened()?;
        open.change = Change::default();
        Ok(open.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    fn commit(&mut self) -> Result<()> {
        let open = self.opened()?;
        let Change { pending, payload_bytes, set_aside } = std::mem::take(&mut open.change);
        if (pending, payload_bytes, set_aside) != (0, 0, 0) {
            let mut statement = open.connection.prepare_cached(
                "UPDATE queues SET pending = pending + ?2, payload_bytes = payload_bytes + ?3,
                     set_aside = set_aside + ?4 WHERE id = ?1",
            )?;
            statement.execute(params![open.queue, pending, payload_bytes, set_aside])?;
        }
        Ok(open.connection.execute_batch("COMMIT")?)
    }

    fn now(&mut self) -> Result<UnixNanos> {
        Ok(clock::now())
    }

    fn schedule(&mut self, call: &New, limits: &Limits) -> Result<Result<TimerId, ScheduleError>> {
        let open = self.opened()?;
        let counts = open.counts()?;
        if let Err(refused) = limits.check_room(counts.pending, counts.payload_bytes, call.payload.len()) {
            return Ok(Err(refused));
        }
        let mut statement = open.connection.prepare_cached(
            "INSERT INTO calls (queue, scheduled, due, visible, payload) VALUES (?1, ?2, ?3, ?3, ?4)",
        )?;
        statement.execute(params![open.queue, time(call.scheduled), time(call.due), call.payload])?;
        open.change.pending += 1;
        open.change.payload_bytes += call.payload.len() as i64;
        Ok(Ok(open.connection.last_insert_rowid() as TimerId))
    }

    fn cancel(&mut self, id: TimerId) -> Result<bool> {
        let open = self.opened()?;
        let Ok(number) = i64::try_from(id) else { return Ok(false) };
        let mut statement = open.connection.prepare_cached(
            "DELETE FROM calls WHERE id = ?1 AND queue = ?2 AND claimed = 0 AND set_aside IS NULL
             RETURNING length(payload)",
        )?;
        let bytes: Option<i64> =
            statement.query_row(params![number, open.queue], |row| row.get(0)).optional()?;
        open.change.pending -= i64::from(bytes.is_some());
        open.change.payload_bytes -= bytes.unwrap_or_default();
        Ok(bytes.is_some())
    }

    fn claim(&mut self, claim: &Claim) -> Result<Vec<Claimed>> {
        let open = self.opened()?;
        open.set_aside_worn_out(claim)?;
        let until = claim.now.saturating_add(claim.lease.as_nanos() as UnixNanos);
        let mut statement = open.connection.prepare_cached(
            "UPDATE calls SET visible = ?3, attempt = attempt + 1, claimed = 1 WHERE id IN (
                 SELECT id FROM calls WHERE queue = ?1 AND visible <= ?2 ORDER BY visible, id LIMIT ?4
             ) RETURNING id, payload, scheduled, due, attempt",
        )?;
        let claimed = statement.query_map(
            params![open.queue, time(claim.now.min(claim.due_max)), time(until), claim.calls_max as i64],
            |row| {
                Ok(Claimed {
                    id: row.get::<_, i64>(0)? as TimerId,
                    payload: row.get::<_, Vec<u8>>(1)?.into(),
                    scheduled: row.get::<_, i64>(2)? as UnixNanos,
                    due: row.get::<_, i64>(3)? as UnixNanos,
                    attempt: row.get(4)?,
                })
            },
        )?;
        let mut claimed = claimed.collect::<Result<Vec<_>, _>>()?;
        claimed.sort_by_key(|call| (call.due, call.id));
        Ok(claimed)
    }

    fn extend(&mut self, run: Run, until: UnixNanos) -> Result<bool> {
        let mut statement = self
            .opened()?
            .connection
            .prepare_cached("UPDATE calls SET visible = ?3 WHERE id = ?1 AND attempt = ?2 AND claimed = 1")?;
        Ok(statement.execute(params![run.id as i64, run.attempt, time(until)])? == 1)
    }

    fn end(&mut self, run: Run, next: &Next) -> Result<bool> {
        let open = self.opened()?;
        let (id, attempt) = (run.id as i64, run.attempt);
        let is_mine = "WHERE id = ?1 AND attempt = ?2 AND claimed = 1";
        let bytes = match next {
            Next::Gone | Next::SetAside { .. } => open.payload_bytes(run.id).unwrap_or_default(),
            Next::Again { .. } | Next::Released => 0,
        };
        let change = |set: &str, values: &[&dyn rusqlite::ToSql]| -> Result<bool> {
            let mut statement = open.connection.prepare_cached(&format!("{set} {is_mine}"))?;
            Ok(statement.execute(values)? == 1)
        };
        let changed = match next {
            Next::Gone => change("DELETE FROM calls", &[&id, &attempt])?,
            Next::Again { due, error } => change(
                "UPDATE calls SET claimed = 0, due = ?3, visible = ?3, error = ?4",
                &[&id, &attempt, &time(*due), error],
            )?,
            Next::SetAside { at, error } => change(
                "UPDATE calls SET claimed = 0, visible = NULL, set_aside = ?3, error = ?4",
                &[&id, &attempt, &time(*at), error],
            )?,
            Next::Released => change(
                "UPDATE calls SET claimed = 0, visible = due, attempt = attempt - 1",
                &[&id, &attempt],
            )?,
        };
        if changed && matches!(next, Next::Gone | Next::SetAside { .. }) {
            open.change.pending -= 1;
            open.change.payload_bytes -= bytes;
            open.change.set_aside += i64::from(matches!(next, Next::SetAside { .. }));
        }
        Ok(changed)
    }

    fn first_due(&mut self) -> Result<Option<UnixNanos>> {
        let open = self.opened()?;
        let mut statement = open.connection.prepare_cached(
            "SELECT visible FROM calls WHERE queue = ?1 AND visible IS NOT NULL ORDER BY visible LIMIT 1",
        )?;
        let first: Option<i64> = statement.query_row([open.queue], |row| row.get(0)).optional()?;
        Ok(first.map(|first| first as UnixNanos))
    }

    fn counts(&mut self) -> Result<Counts> {
        self.opened()?.counts()
    }

    fn remove_set_aside(&mut self, before: UnixNanos) -> Result<u64> {
        let open = self.opened()?;
        let mut statement =
            open.connection.prepare_cached("DELETE FROM calls WHERE queue = ?1 AND set_aside < ?2")?;
        let removed = statement.execute(params![open.queue, time(before)])?;
        open.change.set_aside -= removed as i64;
        Ok(removed as u64)
    }

    fn close(&mut self) {
        self.open = None;
    }
}

/// Whether there is nothing in it. An error if what is there is not ours.
fn is_new(connection: &Connection) -> Result<bool> {
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    match (application, version) {
        (0, 0) => {
            let tables: u32 =
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            ensure!(tables == 0, "it is a database of something else");
            Ok(true)
        }
        (APPLICATION, VERSION) => Ok(false),
        (APPLICATION, later) => {
            bail!("it is of a later version of this program ({later}, and this one knows {VERSION})")
        }
        _ => bail!("it is a database of something else"),
    }
}

/// Times beyond 2262 are as far away as can be.
fn time(nanos: UnixNanos) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}
