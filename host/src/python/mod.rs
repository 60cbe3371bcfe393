//! A Python application (WSGI, PEP 3333) as a guest: it becomes a component once,
//! which is kept as long as what it was made of stays the same.

/// The application, as it was named.
mod application;
/// Components that were made, by what they were made of.
mod built;
/// The tool that makes a component of Python code: found, or installed.
mod componentize;
/// What is told of an application before that.
mod first_look;
/// An application is imported in an instance of the interpreter.
pub(crate) mod import;
/// An instance of the interpreter, in which an application is imported.
mod instance;
/// The interpreter, made once for all applications.
mod interpreter;
/// Its libraries become one module.
mod merge;
/// What its C library keeps of the host can be let go.
mod reset;
/// What an import has printed.
mod said;
/// What is in memory becomes a component.
mod snapshot;
/// Variables of the environment that went into them.
pub(crate) mod variables;

use std::io;
use std::path::Path;

use anyhow::{Context, Result};

pub(crate) use self::application::{Application, HashSeed};
use self::built::{Kept, Sources};
pub(crate) use self::componentize::Tools;
use self::import::Imported;
use self::interpreter::Interpreter;
use crate::cache;
use crate::guest::Content;
use crate::system::file;
use crate::terminal::say_while;

/// The folder of components in that of the cache.
const FOLDER: &str = "python";

/// The component of an application: the one that is kept in `cache`, or one that is
/// made now, which takes some seconds. The error says what to change; `tell` is told what only costs time.
pub(crate) fn component(
    application: &Application,
    tools: &Tools,
    cache: Option<&Path>,
    tell: &dyn Fn(&str),
) -> Result<Content> {
    let named = || format!("--wsgi-file {}", application.file.display());
    let Known { source, mut sources, key, kept, unfit, component } = {
        let (application, cache) = (application.clone(), cache.map(Path::to_owned));
        let looked = move || Known::look(&application, cache.as_deref());
        file::within(file::TIME_MAX, looked).with_context(named)?
    };
    unfit.iter().for_each(|unfit| tell(unfit));
    if let Some(component) = component {
        return Ok(component);
    }
    first_look::check(application, &source, tell).with_context(named)?;
    let interpreter = match application.seed {
        HashSeed::OfTools => Interpreter::find_or_make(tools, cache, tell),
        HashSeed::Own => Interpreter::make_for_one(tools, cache, tell),
    };
    let interpreter = interpreter.with_context(named)?;
    let Imported { component, asked, made_of } = say_while(
        format_args!("Building a component of {}, some seconds", application.file.display()),
        || import::import(&interpreter, application, &source).with_context(named),
    )?;
    for (path, sum) in made_of {
        sources.add(&path, sum).with_context(named)?;
    }
    if let (Some(kept), Some(cache)) = (&kept, cache)
        && let Err(error) = kept.keep(&key, &component, sources, &asked)
    {
        tell(&cannot_be_used(cache, &error));
    }
    Ok(Content { bytes: component, is_made_here: true })
}

/// Whether a component was made here, and is kept in `cache`; no other guest is.
pub(crate) fn is_kept(component: &[u8], cache: &Path) -> bool {
    variables::are_in(component)
        && Kept::open(&cache.join(FOLDER)).is_ok_and(|kept| kept.has(blake3::hash(component)))
}

/// What is known before anything is built.
struct Known {
    source: Vec<u8>,
    sources: Sources,
    key: String,
    kept: Option<Kept>,
    /// What only costs time.
    unfit: Option<String>,
    component: Option<Content>,
}

impl Known {
    fn look(application: &Application, cache: Option<&Path>) -> Result<Known> {
        let source = file::read(&application.file).context("cannot be read")?;
        let (key, sources) = (built::key(application)?, Sources::before(application, &source)?);
        let mut known = Known { source, sources, key, kept: None, unfit: None, component: None };
        let Some(cache) = cache else {
            known.unfit = Some("the component is built at every start, unless --cache DIR is given: there is no folder of the user's".to_owned());
            return Ok(known);
        };
        match Kept::open(&cache.join(FOLDER)) {
            Ok(kept) => {
                match kept.find(&known.key, &application.environment) {
                    Ok(component) => known.component = component,
                    Err(unfit) => {
                        known.unfit = Some(format!("--cache: {unfit}; the component is built anew"));
                    }
                }
                known.kept = Some(kept);
            }
            Err(error) => known.unfit = Some(cannot_be_used(cache, &error)),
        }
        Ok(known)
    }
}

fn cannot_be_used(folder: &Path, error: &io::Error) -> String {
    format!(
        "--cache {}: cannot be used, the component is built at every start: {error}{}",
        folder.display(),
        cache::ANOTHER
    )
}
