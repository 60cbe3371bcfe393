//! Where a store is, as the operator says it. What may have a password in it is never shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};
use rustls::ClientConfig;
use tokio_postgres::Config;

use super::memory::Memory;
use super::operations::Operations;
use super::postgres::{self, Postgres};
use super::redis::Redis;
use super::sqlite::Sqlite;

/// Bytes of a store's name.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Whether a store may have this name. It is part of where its keys are: in Redis it ends with the
/// first colon.
pub(crate) fn is_name(text: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    text.len() <= NAME_BYTES_MAX && text.chars().all(is_of_name)
}

/// What stores and guests may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of one value.
    pub value_bytes_max: usize,
    /// Of a store in memory.
    pub memory_bytes_max: u64,
    /// To one database of PostgreSQL.
    pub connections_max: usize,
    /// For what a store is asked, with connecting.
    pub time_max: Duration,
}

#[derive(Clone)]
pub(crate) enum Place {
    Memory,
    Sqlite(PathBuf),
    Postgres(Box<Config>),
    Redis(Box<ConnectionInfo>, Tls),
}

/// Whether TLS is spoken.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tls {
    Yes,
    No,
}

const KINDS: &str = "expected memory, sqlite:FILE, postgres://USER@HOST/DATABASE or redis://HOST:PORT/NUMBER";

impl Place {
    /// The error never has the text in it, which may have a password.
    pub(crate) fn read(text: &str) -> Result<Place, String> {
        if text == "memory" {
            return Ok(Place::Memory);
        }
        if let Some(file) = text.strip_prefix("sqlite:") {
            return match file {
                "" | ":memory:" => Err(format!("the file is missing; {KINDS}")),
                file => Ok(Place::Sqlite(PathBuf::from(file))),
            };
        }
        match text.split_once(':').map_or("", |(scheme, _)| scheme) {
            "postgres" | "postgresql" => postgres(text),
            "redis" | "redis+unix" => redis(text, Tls::No),
            // The library is told nothing of TLS, which is ours.
            "rediss" => redis(&text.replacen("rediss", "redis", 1), Tls::Yes),
            _ => Err(KINDS.to_owned()),
        }
    }

    /// The file of a store that has one here.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Place::Sqlite(file) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn wants_tls(&self) -> bool {
        match self {
            Place::Postgres(config) => postgres::wants_tls(config),
            Place::Redis(_, tls) => *tls == Tls::Yes,
            Place::Memory | Place::Sqlite(_) => false,
        }
    }

    /// It is reached by the network, or by a socket of this machine.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Place::Postgres(_) | Place::Redis(..))
    }

    /// What is in it and nobody may see.
    pub(super) fn password(&self) -> Option<String> {
        match self {
            Place::Postgres(config) => {
                config.get_password().map(|password| String::from_utf8_lossy(password).into_owned())
            }
            Place::Redis(info, _) => info.redis_settings().password().map(str::to_owned),
            Place::Memory | Place::Sqlite(_) => None,
        }
    }

    /// The store that is there, which is not looked at before it is asked something.
    pub(super) fn store(
        self,
        name: &str,
        limits: Limits,
        tls: Option<Arc<ClientConfig>>,
    ) -> Arc<dyn Operations> {
        let tls = tls.filter(|_| self.wants_tls());
        match self {
            Place::Memory => Arc::new(Memory::new(limits.memory_bytes_max)),
            Place::Sqlite(file) => Arc::new(Sqlite::new(file, name.to_owned(), limits.time_max)),
            Place::Postgres(config) => {
                let Limits { connections_max, time_max, .. } = limits;
                Arc::new(Postgres::new(*config, name.to_owned(), tls, connections_max, time_max))
            }
            Place::Redis(info, _) => Arc::new(Redis::new(*info, name, tls, limits.time_max)),
        }
    }
}

fn postgres(text: &str) -> Result<Place, String> {
    let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| {
        let causes: Vec<_> = anyhow::Error::from(error).chain().map(ToString::to_string).collect();
        causes.join(": ")
    })?;
    if config.get_hosts().is_empty() {
        return Err("the host is missing; for a socket of this machine add ?host=/run/postgresql".to_owned());
    }
    if config.get_application_name().is_none() {
        config.application_name("wasm-serve");
    }
    Ok(Place::Postgres(Box::new(config)))
}

fn redis(text: &str, tls: Tls) -> Result<Place, String> {
    if text.contains('#') {
        return Err("what comes after # has no meaning; leave it out".to_owned());
    }
    let info = text.into_connection_info().map_err(|error| error.to_string())?;
    Ok(Place::Redis(Box::new(info), tls))
}

/// The kind alone.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Place::Memory => "memory",
            Place::Sqlite(_) => "sqlite",
            Place::Postgres(_) => "postgres",
            Place::Redis(..) => "redis",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_passwords_never_shown() {
        for (text, kind, tls) in [
            ("memory", "memory", false),
            ("sqlite:app.db", "sqlite", false),
            ("postgres://u:hush@127.0.0.1:5432/d", "postgres", false),
            ("postgresql://u:hush@db/d?sslmode=require", "postgres", true),
            ("postgres:///d?host=/run/postgresql", "postgres", false),
            ("redis://:hush@127.0.0.1:6379/1", "redis", false),
            ("rediss://u:hush@db/", "redis", true),
            ("redis+unix:///run/redis.sock", "redis", false),
        ] {
            let place = Place::read(text).unwrap();
            assert_eq!((format!("{place:?}").as_str(), place.wants_tls()), (kind, tls), "{text}");
        }
        for text in [
            "",
            "app.db",
            "sqlite:",
            "sqlite::memory:",
            "mysql://u:hush@db/",
            "postgres://u:hush@db:port/d",
            "postgres://u:hush@/d",
            "postgres://u:hush@db/d?sslmode=hush",
            "redis://:hush@db:port/",
            "redis://:hush@db/hush",
            "rediss://:hush@db/#insecure",
        ] {
            let error = Place::read(text).unwrap_err();
            assert!(!error.contains("hush") && !error.is_empty(), "{text}: {error}");
        }
    }
}
