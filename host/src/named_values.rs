//! Values that guests get by name: those of `--config`, and secrets, which are read out of files.
//! Nothing here can be shown: neither by `Debug` nor in an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use parking_lot::RwLock;

use crate::system::file;

/// Bytes of a secret: a few certificates fit, and no key is as long.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Values by their names.
pub(crate) type Values = BTreeMap<String, String>;

/// A secret by the name that guests get it by.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    pub name: String,
    pub file: PathBuf,
}

/// What is given to the guests of a server. An instance keeps what it saw first; secrets are read
/// again when the guest is swapped.
pub(crate) struct NamedValues {
    given: Values,
    secrets: Vec<Secret>,
    now: RwLock<Arc<Values>>,
}

impl NamedValues {
    pub(crate) fn read(given: Vec<(String, String)>, secrets: Vec<Secret>) -> Result<NamedValues> {
        let named = NamedValues { given: given.into_iter().collect(), secrets, now: RwLock::default() };
        named.set(named.read_again()?);
        Ok(named)
    }

    /// As the files are now.
    pub(crate) fn read_again(&self) -> Result<Values> {
        let mut values = self.given.clone();
        for Secret { name, file } in &self.secrets {
            let text = content(file).with_context(|| format!("--secret {name}: {}", file.display()))?;
            values.insert(name.clone(), text);
        }
        Ok(values)
    }

    pub(crate) fn set(&self, values: Values) {
        *self.now.write() = Arc::new(values);
    }

    pub(crate) fn now(&self) -> Arc<Values> {
        self.now.read().clone()
    }
}

impl std::fmt::Debug for NamedValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

/// The text of a file that has a secret. One line break at its end, which editors write, is no
/// part of it.
pub(crate) fn content(path: &Path) -> Result<String> {
    let path = path.to_owned();
    let read = move || {
        let file = file::open(&path).context("cannot be read")?;
        let bytes = file.metadata().context("cannot be read")?.len();
        ensure!(bytes <= SECRET_BYTES_MAX, "has over {SECRET_BYTES_MAX} bytes");
        file::read(&path).context("cannot be read")
    };
    let mut text = match String::from_utf8(file::within(file::TIME_MAX, read)?) {
        Ok(text) => text,
        // The error has the content in it.
        Err(_) => anyhow::bail!("is not UTF-8"),
    };
    let line = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
    text.truncate(line.unwrap_or(text.len()));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_is_in_its_file_without_the_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        for (bytes, expected) in [
            ("hush", Some("hush")),
            ("hush\n", Some("hush")),
            ("hush\r\n", Some("hush")),
            ("a\nb\n\n", Some("a\nb\n")),
            ("", Some("")),
            (" hush ", Some(" hush ")),
        ] {
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(content(&file).ok().as_deref(), expected, "{bytes:?}");
        }
        std::fs::write(&file, b"hush\xff").unwrap();
        let error = format!("{:#}", content(&file).unwrap_err());
        assert!(error.contains("UTF-8") && !error.contains("hush"), "{error}");
        std::fs::write(&file, vec![b'x'; SECRET_BYTES_MAX as usize + 1]).unwrap();
        assert!(content(&file).is_err());
        assert!(content(folder.path()).is_err());
    }
}
