//! What a person sees of a queue in a file, and does with it.

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{OptionalExtension, Row, params};

use crate::queue::TimerId;
use crate::sqlite::Sqlite;
use crate::store::{Store, UnixNanos};

/// A call as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: TimerId,
    pub state: State,
    pub scheduled: UnixNanos,
    /// When its next run is due, or the last one was.
    pub due: UnixNanos,
    /// Runs that were begun.
    pub attempts: u32,
    pub payload_bytes: u64,
    /// Of the last run that failed.
    pub error: Option<String>,
}

/// Where a call is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    /// A server has it.
    Claimed,
    /// It has failed for the last time, and is kept.
    SetAside,
}

const COLUMNS: &str =
    "id, scheduled, due, attempt, length(payload), error, claimed, set_aside IS NOT NULL FROM calls";

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    let state = match (row.get(6)?, row.get(7)?) {
        (_, true) => State::SetAside,
        (true, _) => State::Claimed,
        _ => State::Waiting,
    };
    Ok(Listed {
        id: row.get::<_, i64>(0)? as TimerId,
        scheduled: row.get::<_, i64>(1)? as UnixNanos,
        due: row.get::<_, i64>(2)? as UnixNanos,
        attempts: row.get(3)?,
        payload_bytes: row.get::<_, i64>(4)? as u64,
        error: row.get(5)?,
        state,
    })
}

impl Sqlite {
    /// Opens a queue of a file that is there: the one of this name, or the only one.
    pub fn open_existing(file: &std::path::Path, queue: Option<&str>) -> Result<Sqlite> {
        ensure!(file.is_file(), "there is no such file");
        let names = Sqlite::queues(file)?;
        let name = match (queue, &*names) {
            (Some(queue), names) if names.iter().any(|name| name == queue) => queue,
            (Some(queue), names) => bail!("it has no queue {queue}; it has: {}", names.join(", ")),
            (None, [only]) => only,
            (None, names) => bail!("name one of its queues with --deferred-queue: {}", names.join(", ")),
        };
        Sqlite::open(file, name)
    }

    /// The first calls, those that were set aside or all, by their numbers.
    pub fn list(&mut self, set_aside_only: bool, calls_max: usize) -> Result<Vec<Listed>> {
        let (connection, queue) = self.parts()?;
        let sql = format!(
            "SELECT {COLUMNS} WHERE queue = ?1 AND (set_aside IS NOT NULL OR NOT ?2) ORDER BY id LIMIT ?3"
        );
        let mut statement = connection.prepare(&sql)?;
        let calls = statement.query_map(params![queue, set_aside_only, calls_max as i64], listed)?;
        Ok(calls.collect::<Result<_, _>>()?)
    }

    /// One call, with its payload.
    pub fn show(&mut self, id: TimerId) -> Result<Option<(Listed, Vec<u8>)>> {
        let (connection, queue) = self.parts()?;
        let call = connection
            .query_row(&format!("SELECT {COLUMNS} WHERE queue = ?1 AND id = ?2"), [queue, id as i64], listed)
            .optional()?;
        let Some(call) = call else { return Ok(None) };
        let payload =
            connection.query_row("SELECT payload FROM calls WHERE id = ?1", [id as i64], |row| row.get(0))?;
        Ok(Some((call, payload)))
    }

    /// Lets run again at once what was set aside, as if it had never run: one call, or all. Gives how many.
    pub fn retry(&mut self, id: Option<TimerId>) -> Result<u64> {
        self.begin()?;
        let now = self.now()? as i64;
        let (connection, queue) = self.parts()?;
        let mut statement = connection.prepare(
            "UPDATE calls SET set_aside = NULL, attempt = 0, claimed = 0, due = ?2, visible = ?2
             WHERE queue = ?1 AND set_aside IS NOT NULL AND id = coalesce(?3, id) RETURNING length(payload)",
        )?;
        let bytes = statement
            .query_map(params![queue, now, id.map(|id| id as i64)], |row| row.get::<_, i64>(0))?
            .collect::<Result<Vec<i64>, _>>()?;
        drop(statement);
        self.change(bytes.len() as i64, bytes.iter().sum(), -(bytes.len() as i64))?;
        self.commit()?;
        Ok(bytes.len() as u64)
    }

    /// Removes a call that no server has.
    pub fn remove(&mut self, id: TimerId) -> Result<bool> {
        self.begin()?;
        let removed = self.cancel(id)?;
        self.commit()?;
        Ok(removed)
    }

    /// Removes all that was set aside. Gives how many.
    pub fn purge(&mut self) -> Result<u64> {
        self.begin()?;
        let removed = self.remove_set_aside(u64::MAX)?;
        self.commit()?;
        Ok(removed)
    }

    /// Other queues in the file that have calls, with how many: perhaps a guest has another name now.
    pub fn other_queues(&mut self) -> Result<Vec<(String, u64)>> {
        let (connection, queue) = self.parts()?;
        let mut names = connection
            .prepare("SELECT name, pending FROM queues WHERE id != ?1 AND pending > 0 ORDER BY name")?;
        let names = names.query_map([queue], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    fn queues(file: &std::path::Path) -> Result<Vec<String>> {
        let connection = rusqlite::Connection::open(file)?;
        let names = connection.prepare("SELECT name FROM queues ORDER BY name");
        let mut names = names.context("it is no store of deferred calls")?;
        let names = names.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }
}
