//! A store in a database of Redis, or of what speaks as it does. A key there is the store's name,
//! a colon, and the guest's key. One connection serves all guests: it is made when it is needed,
//! and again when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, RedisError};
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::operations::{Error, KEYS_MAX, Operations, Page, Pair, Result, Unanswered};

/// The values, unless they have too many bytes together: then none.
const GET: &str = "local bytes = 0
for _, key in ipairs(KEYS) do bytes = bytes + redis.call('STRLEN', key) end
if bytes > tonumber(ARGV[1]) then return redis.status_reply('TOO MANY') end
return redis.call('MGET', unpack(KEYS))";
/// Sets the third if the present value is the second, or none is there and the first is 0.
const SWAP: &str = "local present = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then if present then return 0 end
elseif present ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
return 1";

/// Adds the first to a number, unless the sum would be below the second. Numbers that begin with
/// zeros it takes as other places do, though `INCRBY` does not. What a script has as a number is
/// not exact, so the sum is given as it is written.
const INCREMENT: &str = "local present = redis.call('GET', KEYS[1])
if present then
    if not string.find(present, '^-?[0-9]+$') then return redis.error_reply('ERR not an integer') end
    local plain = string.gsub(present, '^(-?)0+([0-9])', '%1%2')
    if plain == '-0' then plain = '0' end
    if plain ~= present then redis.call('SET', KEYS[1], plain, 'KEEPTTL') end
end
local added = redis.pcall('INCRBY', KEYS[1], ARGV[1])
local sum = redis.call('GET', KEYS[1])
local is_below = sum and tonumber(sum) < tonumber(ARGV[2])
if type(added) ~= 'table' and not is_below then return sum end
if present then redis.call('SET', KEYS[1], present, 'KEEPTTL') else redis.call('DEL', KEYS[1]) end
if type(added) == 'table' then return added end
return redis.status_reply('BELOW')";

/// How often is looked for a key before a page without one is given: keys of others are passed by.
const SCANS_MAX: usize = 100;

pub(super) struct Redis {
    info: ConnectionInfo,
    prefix: String,
    /// None without TLS.
    tls: Option<Arc<ClientConfig>>,
    time_max: Duration,
    kept: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    commands: MultiplexedConnection,
    has_ended: Arc<AtomicBool>,
}

impl Redis {
    pub(super) fn new(
        info: ConnectionInfo,
        name: &str,
        tls: Option<Arc<ClientConfig>>,
        time_max: Duration,
    ) -> Redis {
        Redis { info, prefix: format!("{name}:"), tls, time_max, kept: Mutex::default() }
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let mut connection = self.connection().await?;
        let unanswered = Unanswered::then(|| connection.has_ended.store(true, Ordering::Relaxed));
        let answer = command.query_async(&mut connection.commands).await;
        if !answer.as_ref().is_err_and(RedisError::is_unrecoverable_error) {
            unanswered.answered();
        }
        answer.map_err(refused)
    }

    /// The one that is kept, or a new one. Others wait meanwhile, for it is theirs, too.
    async fn connection(&self) -> Result<Connection> {
        let mut kept = self.kept.lock().await;
        if let Some(connection) = &*kept
            && !connection.has_ended.load(Ordering::Relaxed)
        {
            return Ok(connection.clone());
        }
        Ok(kept.insert(self.connect().await?).clone())
    }

    async fn connect(&self) -> Result<Connection> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(Error::unavailable)?;
                stream.set_nodelay(true).map_err(Error::unavailable)?;
                // Where the system has no such thing, it goes on without.
                let time_max = u32::try_from(self.time_max.as_millis()).unwrap_or(u32::MAX);
                let _ = set_tcp_user_timeout(&stream, time_max);
                let Some(tls) = self.tls.clone() else { return self.begin(stream).await };
                let name = ServerName::try_from(host.clone()).map_err(Error::unavailable)?;
                let stream = TlsConnector::from(tls).connect(name, stream).await;
                self.begin(stream.map_err(Error::unavailable)?).await
            }
            ConnectionAddr::Unix(path) => {
                self.begin(UnixStream::connect(path).await.map_err(Error::unavailable)?).await
            }
            _ => Err(Error::unavailable("an address of an unknown kind")),
        }
    }

    async fn begin(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Connection> {
        // Whoever waits has a time of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let begun = MultiplexedConnection::new_with_config(self.info.redis_settings(), stream, config);
        let (commands, driven) = begun.await.map_err(Error::unavailable)?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = has_ended.clone();
        tokio::spawn(async move {
            driven.await;
            ended.store(true, Ordering::Relaxed);
        });
        Ok(Connection { commands, has_ended })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn command(&self, name: &str, keys: &[String]) -> Cmd {
        let mut command = redis::cmd(name);
        keys.iter().for_each(|key| {
            command.arg(self.key(key));
        });
        command
    }

    fn script(&self, script: &str, keys: &[String]) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(keys.len());
        keys.iter().for_each(|key| {
            command.arg(self.key(key));
        });
        command
    }
}

/// What the database says of numbers has no code of its own.
fn refused(error: RedisError) -> Error {
    let text = error.to_string();
    match ["not an integer", "would overflow"].iter().any(|said| text.contains(said)) {
        true => Error::no_number(),
        false => Error::Unavailable(text),
    }
}

/// What has a special meaning in a pattern loses it.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for character in text.chars() {
        if "*?[]^\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[async_trait]
impl Operations for Redis {
    async fn get(&self, keys: Vec<String>, bytes_max: u64) -> Result<Vec<Option<Vec<u8>>>> {
        let mut command = self.script(GET, &keys);
        command.arg(bytes_max);
        match self.ask(&command).await? {
            redis::Value::SimpleString(_) => Err(Error::too_many_bytes(bytes_max)),
            values => FromRedisValue::from_redis_value(values).map_err(Error::unavailable),
        }
    }

    async fn exists(&self, key: String) -> Result<bool> {
        self.ask(&self.command("EXISTS", &[key])).await
    }

    async fn set(&self, pairs: Vec<Pair>) -> Result<()> {
        let mut command = redis::cmd("MSET");
        pairs.into_iter().for_each(|(key, value)| {
            command.arg(self.key(&key)).arg(value);
        });
        self.ask(&command).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<()> {
        self.ask::<u64>(&self.command("DEL", &keys)).await.map(drop)
    }

    /// A page begins where the database says that its search goes on. It may have keys of an
    /// earlier one again, if keys came or went between them.
    async fn list(&self, from: Option<u64>) -> Result<Page> {
        let (mut cursor, mut keys) = (from.unwrap_or(0), Vec::<Vec<u8>>::new());
        let pattern = format!("{}*", literal(&self.prefix));
        for _ in 0..SCANS_MAX {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(KEYS_MAX);
            let found: Vec<Vec<u8>>;
            (cursor, found) = self.ask(&command).await?;
            keys.extend(found);
            if cursor == 0 || !keys.is_empty() {
                break;
            }
        }
        keys.sort_unstable();
        keys.dedup();
        // What is no text, others have written: no guest can name it.
        let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
        let keys = keys.filter_map(|key| key.strip_prefix(&self.prefix).map(str::to_owned)).collect();
        Ok(Page { keys, next: (cursor != 0).then_some(cursor) })
    }

    async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64> {
        let mut command = self.script(INCREMENT, &[key]);
        command.arg(delta).arg(least);
        match self.ask(&command).await? {
            redis::Value::SimpleString(_) => Err(Error::below(least)),
            sum => FromRedisValue::from_redis_value(sum).map_err(Error::unavailable),
        }
    }

    async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool> {
        let mut command = self.script(SWAP, &[key]);
        command.arg(if old.is_some() { "1" } else { "0" }).arg(old.unwrap_or_default()).arg(new);
        self.ask(&command).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_pattern() {
        assert_eq!(literal("a*b?[c]\\:"), "a\\*b\\?\\[c\\]\\\\:");
    }
}
