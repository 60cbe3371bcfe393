//! Where the log is written, and what is said if it cannot be.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::terminal::say;

/// Where lines are written.
pub(super) enum Target {
    StandardError,
    File { path: PathBuf, file: File },
}

impl Target {
    pub(super) fn open(path: &Path) -> io::Result<Target> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Target::File { path: path.to_owned(), file })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::StandardError => io::stderr().write_all(bytes),
            Target::File { file, .. } => file.write_all(bytes),
        }
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { path, .. } = self {
            *self = Target::open(path)?;
        }
        Ok(())
    }
}

/// Says that something fails once, not each time, and when it works again.
pub(super) struct Once {
    what: &'static str,
    has_failed: bool,
}

impl Once {
    pub(super) fn new(what: &'static str) -> Once {
        Once { what, has_failed: false }
    }

    /// True if it worked.
    pub(super) fn note(&mut self, result: io::Result<()>) -> bool {
        match &result {
            Err(error) if !self.has_failed => say(format_args!("wasm-serve: {}: {error}", self.what)),
            Ok(()) if self.has_failed => say(format_args!("wasm-serve: no more: {}", self.what)),
            _ => {}
        }
        self.has_failed = result.is_err();
        !self.has_failed
    }
}
