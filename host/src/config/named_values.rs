//! The options of values that guests get by name.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::named_values::{NamedValues, Secret};

#[derive(Args, Debug)]
pub(super) struct NamedValueOptions {
    /// Let the guest get a value by its name, by `wasi:config`. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = value, help_heading = "What to serve")]
    config: Vec<(String, String)>,

    /// The same, with the value in a file, which is read at the start and at SIGHUP. It is
    /// never shown. Repeatable.
    #[arg(long, value_name = "NAME=FILE", value_parser = secret, help_heading = "What to serve")]
    pub(super) secret: Vec<(String, PathBuf)>,
}

impl NamedValueOptions {
    /// Reads the files.
    pub(super) fn read(&self) -> Result<NamedValues> {
        let names = self.config.iter().map(|(name, _)| name);
        let names: Vec<_> = names.chain(self.secret.iter().map(|(name, _)| name)).collect();
        let secret = |(name, file): &(String, PathBuf)| Secret { name: name.clone(), file: file.clone() };
        for (index, name) in names.iter().enumerate() {
            ensure!(
                !names[..index].contains(name),
                "{name} is given twice, by --config or --secret; leave one out"
            );
        }
        NamedValues::read(self.config.clone(), self.secret.iter().map(secret).collect())
    }
}

fn value(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("expected NAME=VALUE; there is no configuration file, all is said by options"),
    }
}

fn secret(text: &str) -> Result<(String, PathBuf)> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(file)))
        }
        _ => bail!("expected NAME=FILE, such as api-key=/run/credentials/app.service/api-key"),
    }
}
