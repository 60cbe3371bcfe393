//! A store in a database of PostgreSQL, in a table of our own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, Row};

use super::connections::{Connections, unavailable};
use super::operations::{Error, KEYS_MAX, Operations, Page, Pair, Result};

/// No value is sent once all of them would be too many bytes.
const GET: &str = "SELECT key, CASE WHEN sum(octet_length(value)) OVER () <= $3 THEN value END
    FROM wasm_serve_keyvalue_1 WHERE store = $1 AND key = ANY ($2)";
const EXISTS: &str = "SELECT EXISTS (SELECT FROM wasm_serve_keyvalue_1 WHERE store = $1 AND key = $2)";
const SET: &str = "INSERT INTO wasm_serve_keyvalue_1 (store, key, value)
    SELECT $1, * FROM unnest($2::text[], $3::bytea[])
    ON CONFLICT (store, key) DO UPDATE SET value = excluded.value";
/// Rows are locked in the order in which `SET` has them, so that neither waits for the other.
const DELETE: &str = "WITH chosen AS (SELECT id FROM wasm_serve_keyvalue_1
        WHERE store = $1 AND key = ANY ($2) ORDER BY key COLLATE \"C\" FOR UPDATE)
    DELETE FROM wasm_serve_keyvalue_1 AS present USING chosen
    WHERE present.store = $1 AND present.id = chosen.id";
const LIST: &str =
    "SELECT id, key FROM wasm_serve_keyvalue_1 WHERE store = $1 AND id >= $2 ORDER BY id LIMIT $3";
/// The sum of a number that is there. A cast takes more for one than other places do.
macro_rules! sum {
    () => {
        "((CASE WHEN convert_from(present.value, 'UTF8') ~ '^-?[0-9]+$'
            THEN convert_from(present.value, 'UTF8') ELSE 'none' END)::bigint + $3)"
    };
}
/// Gives nothing if the sum would be below the least.
const INCREMENT: &str = concat!(
    "INSERT INTO wasm_serve_keyvalue_1 AS present (store, key, value)
    VALUES ($1, $2, convert_to($3::text, 'UTF8')) ON CONFLICT (store, key) DO UPDATE SET value = convert_to(",
    sum!(),
    "::text, 'UTF8') WHERE ",
    sum!(),
    " >= $4 RETURNING convert_from(value, 'UTF8')::bigint"
);
/// These look at the value again when whoever had it locked has changed it.
const SWAP: &str = "UPDATE wasm_serve_keyvalue_1 SET value = $4
    WHERE store = $1 AND key = $2 AND value = $3 RETURNING 1";
const SWAP_NONE: &str = "INSERT INTO wasm_serve_keyvalue_1 (store, key, value) VALUES ($1, $2, $3)
    ON CONFLICT (store, key) DO NOTHING RETURNING 1";

type Value<'a> = (&'a (dyn ToSql + Sync), Type);

pub(super) struct Postgres {
    name: String,
    connections: Arc<Connections>,
}

impl Postgres {
    /// `name` tells the stores of one database from each other.
    pub(super) fn new(
        config: Config,
        name: String,
        tls: Option<Arc<ClientConfig>>,
        connections_max: usize,
        time_max: Duration,
    ) -> Postgres {
        let connections = Arc::new(Connections::new(config, tls, connections_max, time_max));
        Postgres { name, connections }
    }

    /// The rows that a statement gives. What the database has stopped for others is tried again,
    /// once.
    async fn rows(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let connection = self.connections.take().await?;
        let mut rows = connection.client().query_typed(statement, values).await;
        if rows.as_ref().is_err_and(is_for_others) {
            rows = connection.client().query_typed(statement, values).await;
        }
        if rows.as_ref().map_or_else(|error| error.as_db_error().is_some(), |_| true) {
            connection.give_back();
        }
        rows.map_err(refused)
    }

    fn store(&self) -> Value<'_> {
        (&self.name, Type::TEXT)
    }
}

/// Whether TLS is spoken: if that is asked for by `sslmode=require`, it is, and checked.
pub(super) fn wants_tls(config: &Config) -> bool {
    config.get_ssl_mode() == SslMode::Require
}

/// Nothing is wrong with what was asked.
fn is_for_others(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::T_R_DEADLOCK_DETECTED) || code == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
}

fn refused(error: tokio_postgres::Error) -> Error {
    let no_number = [
        SqlState::INVALID_TEXT_REPRESENTATION,
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
    ];
    match error.code() {
        Some(code) if no_number.contains(code) => Error::no_number(),
        _ => unavailable(error),
    }
}

#[async_trait]
impl Operations for Postgres {
    async fn get(&self, keys: Vec<String>, bytes_max: u64) -> Result<Vec<Option<Vec<u8>>>> {
        let bound = bytes_max as i64;
        let values = [self.store(), (&keys, Type::TEXT_ARRAY), (&bound, Type::INT8)];
        let rows = self.rows(GET, &values).await?;
        let mut found = std::collections::HashMap::new();
        for row in &rows {
            let value: Option<&[u8]> = row.get(1);
            found.insert(row.get::<_, &str>(0), value.ok_or_else(|| Error::too_many_bytes(bytes_max))?);
        }
        Ok(keys.iter().map(|key| found.get(key.as_str()).map(|value| value.to_vec())).collect())
    }

    async fn exists(&self, key: String) -> Result<bool> {
        let rows = self.rows(EXISTS, &[self.store(), (&key, Type::TEXT)]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    async fn set(&self, pairs: Vec<Pair>) -> Result<()> {
        let (keys, values): (Vec<String>, Vec<Vec<u8>>) = pairs.into_iter().unzip();
        let values = [self.store(), (&keys, Type::TEXT_ARRAY), (&values, Type::BYTEA_ARRAY)];
        self.rows(SET, &values).await.map(drop)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<()> {
        self.rows(DELETE, &[self.store(), (&keys, Type::TEXT_ARRAY)]).await.map(drop)
    }

    async fn list(&self, from: Option<u64>) -> Result<Page> {
        // No number is greater than those that the database has.
        let from = i64::try_from(from.unwrap_or(0)).unwrap_or(i64::MAX);
        let count = KEYS_MAX as i64 + 1;
        let rows = self.rows(LIST, &[self.store(), (&from, Type::INT8), (&count, Type::INT8)]).await?;
        let next = rows.get(KEYS_MAX).map(|row| row.get::<_, i64>(0) as u64);
        Ok(Page { keys: rows.iter().take(KEYS_MAX).map(|row| row.get(1)).collect(), next })
    }

    async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64> {
        let values = [self.store(), (&key, Type::TEXT), (&delta, Type::INT8), (&least, Type::INT8)];
        let rows = self.rows(INCREMENT, &values).await?;
        rows.first().map(|row| row.get(0)).ok_or_else(|| Error::below(least))
    }

    async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool> {
        let (key, new) = ((&key as _, Type::TEXT), (&new as _, Type::BYTEA));
        let rows = match &old {
            Some(old) => self.rows(SWAP, &[self.store(), key, (old, Type::BYTEA), new]).await?,
            None => self.rows(SWAP_NONE, &[self.store(), key, new]).await?,
        };
        Ok(!rows.is_empty())
    }
}
