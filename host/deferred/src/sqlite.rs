//! Calls in a file of SQLite, which several servers of one machine may share.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use rustix::time::{ClockId, clock_gettime};

use crate::queue::{Limits, ScheduleError, TimerId};
use crate::store::{Claim, Claimed, Counts, New, Next, Run, Store, UnixNanos};

/// Another server writes for milliseconds.
const BUSY_TIME_MAX: Duration = Duration::from_secs(4);
/// "wasm" in ASCII: by it a file of ours is told from those of others.
const APPLICATION: i32 = 0x7761_736d;
/// Of the tables below. A file of another one is refused.
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
    run INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER,
    error TEXT,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX calls_waiting ON calls (queue, visible) WHERE claimed = 0 AND visible IS NOT NULL;
CREATE INDEX calls_claimed ON calls (queue, visible) WHERE claimed = 1;
CREATE INDEX calls_set_aside ON calls (queue, set_aside) WHERE set_aside IS NOT NULL;
-- How far the clock of all servers on this file is from the time since the machine was started.
CREATE TABLE clocks (boot TEXT PRIMARY KEY, offset INTEGER NOT NULL) STRICT;
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
    clock_offset: i64,
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
        // Nobody else may read what the payloads say. The files beside it get the same mode.
        match File::options().write(true).create_new(true).mode(0o600).open(file) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
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
        // One that is gone is not made anew: its disk may be away.
        let mut connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
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
        let clock_offset = Open::clock_offset(&tables)?;
        tables.commit()?;
        Ok(Open { connection, queue, clock_offset, change: Change::default() })
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

    /// Sets those aside whose servers have ended, and that had their last attempt.
    fn set_aside_worn_out(&mut self, claim: &Claim) -> Result<()> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE calls SET visible = NULL, set_aside = ?2, claimed = 0,
                 error = coalesce(error || '; then ', '') || 'the server ended while it had it'
             WHERE queue = ?1 AND claimed = 1 AND visible <= ?2 AND attempt >= ?3
             RETURNING length(payload)",
        )?;
        let bytes = statement
            .query_map(params![self.queue, time(claim.now), claim.attempts_max], |row| row.get::<_, i64>(0))?
            .collect::<Result<Vec<i64>, _>>()?;
        self.change.pending -= bytes.len() as i64;
        self.change.payload_bytes -= bytes.iter().sum::<i64>();
        self.change.set_aside += bytes.len() as i64;
        Ok(())
    }

    /// One clock for all servers on the file: that of the machine, which goes on while it sleeps and does
    /// not follow the system's time. It begins at the system's time, when the file is first used after the
    /// machine was started.
    fn clock_offset(connection: &Connection) -> Result<i64> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let system = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let offset = time(system.as_nanos() as UnixNanos) - since_boot();
        connection.execute(
            "INSERT INTO clocks (boot, offset) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![boot.trim(), offset],
        )?;
        Ok(connection
            .query_row("SELECT offset FROM clocks WHERE boot = ?1", [boot.trim()], |row| row.get(0))?)
    }
}

fn since_boot() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
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
        Ok((since_boot() + self.opened()?.clock_offset) as UnixNanos)
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
            "UPDATE calls SET visible = ?4, attempt = attempt + 1, run = run + 1, claimed = 1 WHERE id IN (
                 SELECT id FROM (
                     SELECT * FROM (SELECT id, visible FROM calls
                         WHERE queue = ?1 AND claimed = 0 AND visible <= ?2 ORDER BY visible, id LIMIT ?5)
                     UNION ALL
                     SELECT * FROM (SELECT id, visible FROM calls
                         WHERE queue = ?1 AND claimed = 1 AND visible <= ?3 ORDER BY visible, id LIMIT ?5)
                 ) ORDER BY visible, id LIMIT ?5
             ) RETURNING id, payload, scheduled, due, attempt, run",
        )?;
        let (due, now) = (time(claim.now.min(claim.due_max)), time(claim.now));
        let claimed = statement.query_map(
            params![open.queue, due, now, time(until), claim.calls_max as i64],
            |row| {
                let id = row.get::<_, i64>(0)? as TimerId;
                Ok(Claimed {
                    id,
                    payload: row.get::<_, Vec<u8>>(1)?.into(),
                    scheduled: row.get::<_, i64>(2)? as UnixNanos,
                    due: row.get::<_, i64>(3)? as UnixNanos,
                    attempt: row.get(4)?,
                    run: Run { id, number: row.get::<_, i64>(5)? as u64 },
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
            .prepare_cached("UPDATE calls SET visible = ?3 WHERE id = ?1 AND run = ?2 AND claimed = 1")?;
        Ok(statement.execute(params![run.id as i64, run.number as i64, time(until)])? == 1)
    }

    fn end(&mut self, run: Run, next: &Next) -> Result<bool> {
        let open = self.opened()?;
        let (id, number) = (run.id as i64, run.number as i64);
        // The payload's length, if the call is this server's still.
        let change = |set: &str, values: &[&dyn rusqlite::ToSql]| -> Result<Option<i64>> {
            let sql = format!("{set} WHERE id = ?1 AND run = ?2 AND claimed = 1 RETURNING length(payload)");
            let mut statement = open.connection.prepare_cached(&sql)?;
            Ok(statement.query_row(values, |row| row.get(0)).optional()?)
        };
        let bytes = match next {
            Next::Gone => change("DELETE FROM calls", &[&id, &number])?,
            Next::Again { due, error } => change(
                "UPDATE calls SET claimed = 0, due = ?3, visible = ?3, error = ?4",
                &[&id, &number, &time(*due), error],
            )?,
            Next::SetAside { at, error } => change(
                "UPDATE calls SET claimed = 0, visible = NULL, set_aside = ?3, error = ?4",
                &[&id, &number, &time(*at), error],
            )?,
            Next::Released => {
                change("UPDATE calls SET claimed = 0, visible = due, attempt = attempt - 1", &[&id, &number])?
            }
        };
        if let Some(bytes) = bytes
            && matches!(next, Next::Gone | Next::SetAside { .. })
        {
            open.change.pending -= 1;
            open.change.payload_bytes -= bytes;
            open.change.set_aside += i64::from(matches!(next, Next::SetAside { .. }));
        }
        Ok(bytes.is_some())
    }

    fn first_due(&mut self) -> Result<Option<UnixNanos>> {
        let open = self.opened()?;
        let mut statement = open.connection.prepare_cached(
            "SELECT visible FROM calls WHERE queue = ?1 AND claimed = 0 AND visible IS NOT NULL
             ORDER BY visible LIMIT 1",
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
            bail!("it is of another version of this program ({later}, and this one knows {VERSION})")
        }
        _ => bail!("it is a database of something else"),
    }
}

/// Times beyond 2262 are as far away as can be.
fn time(nanos: UnixNanos) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}
