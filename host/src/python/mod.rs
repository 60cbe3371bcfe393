//! A Python application (WSGI, PEP 3333) as a guest: it becomes a component once,
//! which is kept as long as what it was made of stays the same.

/// The tool that makes a component of Python code: found, or installed.
mod componentize;
/// Components that were made, by what they were made of.
mod kept;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use self::componentize::Tools;
use self::kept::{Kept, Sources};
use crate::logging::say_while;

/// What a component is made of.
#[derive(Clone, Debug)]
pub struct Application {
    /// The file with the application, as the user named it.
    pub file: PathBuf,
    /// The name in it.
    pub callable: String,
    /// Folders in which its imports are looked for, the first one first.
    pub folders: Vec<PathBuf>,
}

/// The component of an application: the one that is kept in `cache`, or one that is
/// made now, which takes some seconds. The error says what to change.
pub fn component(application: &Application, tools: &Tools, cache: &Path) -> Result<PathBuf> {
    let named = || format!("--wsgi-file {}", application.file.display());
    let source = std::fs::read(&application.file).with_context(|| format!("{}: cannot be read", named()))?;
    let kept = Kept::open(&cache.join("python")).context("--cache: cannot be used")?;
    let key = kept::key(application).with_context(named)?;
    if let Some(component) = kept.find(&key) {
        return Ok(component);
    }
    let tool = tools.find_or_install().with_context(named)?;
    let mut sources = Sources::before(application, &source).with_context(named)?;
    let built = say_while(
        format_args!("Building a component of {}, 10 to 30 s", application.file.display()),
        || componentize::build(&tool, application, &source, &kept.cache).with_context(named),
    )?;
    for (path, sum) in built.made_of {
        sources.add(&path, sum).with_context(named)?;
    }
    kept.keep(&key, &built.component, sources).context("--cache: cannot be written")
}
