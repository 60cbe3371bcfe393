//! The options of key-value stores.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;

use super::paths::check_folder_of;
use super::values::{Bytes, Seconds};
use crate::keyvalue::{Grant, Limits, NAME_BYTES_MAX, Place, is_name};
use crate::named_values;

#[derive(Args, Debug)]
pub(super) struct KeyvalueOptions {
    /// Let the guest open a key-value store by a name: default=sqlite:app.db,
    /// sessions=redis://10.0.0.1:6379/0, NAME=postgres://USER@HOST/DATABASE, or NAME=memory,
    /// which is gone at a stop. NAME=file:FILE has the place in a file, for passwords.
    /// Repeatable.
    #[arg(long, value_name = "NAME=PLACE", help_heading = "What guests may reach")]
    keyvalue: Vec<Hidden>,

    /// Bytes of one value; a longer one is an error for the guest.
    #[arg(long, value_name = "BYTES", default_value = "1M", help_heading = "What guests may reach")]
    keyvalue_value: Bytes,

    /// Bytes that a store in memory may take.
    #[arg(long, value_name = "BYTES", default_value = "64M", help_heading = "What guests may reach")]
    keyvalue_memory: Bytes,

    /// How long a guest may wait for a store, with connecting to it.
    #[arg(long, value_name = "SECONDS", default_value = "5", help_heading = "What guests may reach")]
    keyvalue_timeout: Seconds,

    /// Connections to one store in a database of PostgreSQL.
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "What guests may reach")]
    keyvalue_connections: usize,
}

/// A text that may have a password in it: neither `Debug` nor an error of clap's shows it.
#[derive(Clone)]
struct Hidden(String);

impl FromStr for Hidden {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Hidden, Infallible> {
        Ok(Hidden(text.to_owned()))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

impl KeyvalueOptions {
    pub(super) fn grants(&self) -> Result<Vec<Grant>> {
        ensure!(!self.keyvalue_timeout.0.is_zero(), "--keyvalue-timeout must be more than 0 seconds");
        ensure!(
            (1..=1000).contains(&self.keyvalue_connections),
            "--keyvalue-connections must be from 1 to 1000"
        );
        ensure!(self.keyvalue_value.0 <= 1 << 30, "--keyvalue-value must be at most 1G");
        let mut grants: Vec<Grant> = Vec::with_capacity(self.keyvalue.len());
        for given in &self.keyvalue {
            let (name, text) = split(&given.0)?;
            let place = place(name, text)?;
            ensure!(
                !grants.iter().any(|grant| grant.name == name),
                "--keyvalue {name}: there is another store of this name"
            );
            grants.push(Grant { name: name.to_owned(), place });
        }
        Ok(grants)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            value_bytes_max: self.keyvalue_value.0,
            memory_bytes_max: self.keyvalue_memory.0 as u64,
            connections_max: self.keyvalue_connections,
            time_max: self.keyvalue_timeout.0,
        }
    }

    /// Files that have places in them.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let file = |given: &Hidden| given.0.split_once('=')?.1.strip_prefix("file:").map(PathBuf::from);
        self.keyvalue.iter().filter_map(file)
    }
}

fn split(given: &str) -> Result<(&str, &str)> {
    let named = given.split_once('=').filter(|(name, _)| is_name(name));
    named.with_context(|| {
        format!("--keyvalue: expected NAME=PLACE, such as default=sqlite:app.db; a name has letters, digits, -, _, . and /, and at most {NAME_BYTES_MAX} bytes")
    })
}

fn place(name: &str, text: &str) -> Result<Place> {
    let place = match text.strip_prefix("file:") {
        Some(file) => {
            let text = named_values::content(Path::new(file));
            let text = text.with_context(|| format!("--keyvalue {name}=file:{file}"))?;
            Place::read(text.trim()).map_err(|why| anyhow!("--keyvalue {name}=file:{file}: {why}"))?
        }
        None => Place::read(text).map_err(|why| anyhow!("--keyvalue {name}: {why}"))?,
    };
    if let Some(file) = place.file() {
        check_folder_of(&format!("--keyvalue {name}=sqlite:"), file)?;
    }
    Ok(place)
}
