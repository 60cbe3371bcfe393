//! Components by what they were made of: the application's file, every module that
//! it imports, and what could be imported in their place.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use include_dir::Dir;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::application::Application;
use super::componentize::{ADAPTER, CLOUDPICKLE, COMPONENTIZE, PYTHON_WIT};
use super::variables::Asked;
use crate::cache::{Cache, Unfit};
use crate::contract::WIT;
use crate::guest::Content;
use crate::system::file;

/// Applications whose components are kept.
const FILES_MAX: usize = 16;
/// Changes with what is made of what the tool has made.
const VERSION: u32 = 2;
/// In place of the sum of a file that is not there; the adapter says so, too.
const MISSING: &str = "missing";

/// The folder of components. `KEY.json` is what is known of an application: the name of
/// its component, and the sums of the files and variables that went into it.
pub(super) struct Kept {
    pub cache: Cache,
}

impl Kept {
    pub(super) fn open(folder: &Path) -> io::Result<Kept> {
        Ok(Kept { cache: Cache::open(folder, FILES_MAX)? })
    }

    /// The component, if nothing that went into it has changed.
    pub(super) fn find(&self, key: &str, environment: &[(String, String)]) -> Result<Option<Content>, Unfit> {
        let Some(made_of) = self.cache.find(&format!("{key}.json"))? else { return Ok(None) };
        let made_of: Value = serde_json::from_slice(&made_of).unwrap_or_default();
        let Some(files) = made_of["files"].as_object() else { return Ok(None) };
        let Some(asked) = Asked::parse(&made_of["variables"]) else { return Ok(None) };
        let is_same = |(file, sum): (&String, &Value)| sum_of(Path::new(file)).is_ok_and(|now| *sum == now);
        let is_good = made_of["server"] == sum_of_our_side()
            && files.iter().all(is_same)
            && asked.is_as_in(environment);
        match made_of["component"].as_str() {
            Some(component) if is_good => {
                Ok(self.cache.find(component)?.map(|bytes| Content { bytes, is_made_here: true }))
            }
            _ => Ok(None),
        }
    }

    /// Whether a component with this sum is kept.
    pub(super) fn has(&self, sum: blake3::Hash) -> bool {
        self.cache.has(&name(sum))
    }

    /// Keeps a component under the application's key.
    pub(super) fn keep(
        &self,
        key: &str,
        component: &[u8],
        made_of: Sources,
        asked: &Asked,
    ) -> io::Result<()> {
        let name = name(blake3::hash(component));
        self.cache.keep(&name, component)?;
        let made_of = json!({
            "server": sum_of_our_side(),
            "component": name,
            "files": made_of.0,
            "variables": asked.0,
        });
        self.cache.keep(&format!("{key}.json"), made_of.to_string().as_bytes())
    }
}

fn name(sum: blake3::Hash) -> String {
    format!("{sum}.wasm")
}

/// What a component is made of: files and folders with their sums, by what they were
/// when they were read.
pub(super) struct Sources(Map<String, Value>);

impl Sources {
    /// What is known before a component is made: the application's file, whose content is
    /// `source`, and the folders in which imports are looked for.
    pub(super) fn before(application: &Application, source: &[u8]) -> io::Result<Sources> {
        let mut sources = Sources(Map::new());
        sources.add(&application.file, sum(source))?;
        for folder in &application.folders {
            sources.add(folder, sum_of(folder)?)?;
        }
        Ok(sources)
    }

    /// Adds one, if it is not known from before.
    pub(super) fn add(&mut self, path: &Path, sum: String) -> io::Result<()> {
        let path = std::path::absolute(path)?.to_string_lossy().into_owned();
        self.0.entry(path).or_insert(sum.into());
        Ok(())
    }
}

/// Names an application. It does not depend on what is in its files, so that a new
/// component takes the place of the old one.
pub(super) fn key(application: &Application) -> io::Result<String> {
    let mut sum = Sum::default();
    sum.add(&[application.seed as u8]);
    sum.add(std::path::absolute(&application.file)?.as_os_str().as_encoded_bytes());
    sum.add(application.callable.as_bytes());
    for folder in &application.folders {
        sum.add(std::path::absolute(folder)?.as_os_str().as_encoded_bytes());
    }
    Ok(sum.text())
}

/// The sum of what this program adds to every application.
pub(super) fn sum_of_our_side() -> String {
    let mut sum = Sum::default();
    sum.add(&VERSION.to_le_bytes());
    sum.add(COMPONENTIZE.as_bytes());
    sum.add(CLOUDPICKLE.as_bytes());
    sum.add_folder(&ADAPTER);
    sum.add_folder(&WIT);
    sum.add_folder(&PYTHON_WIT);
    sum.text()
}

/// A sum over texts, each with its length.
#[derive(Default)]
struct Sum(blake3::Hasher);

impl Sum {
    fn add(&mut self, text: &[u8]) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn add_folder(&mut self, folder: &Dir<'_>) {
        for file in folder.files() {
            self.add(file.path().as_os_str().as_encoded_bytes());
            self.add(file.contents());
        }
        folder.dirs().for_each(|folder| self.add_folder(folder));
    }

    fn text(self) -> String {
        self.0.finalize().to_string()
    }
}

/// The sum of a file's content. Of a folder, it is that of the names which an import
/// could find there: a module that is added may be imported in place of another. The adapter
/// makes the same sums.
fn sum_of(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Ok(sum(modules(path)?.join("\n").as_bytes()));
    }
    let mut file = match file::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(MISSING.to_owned());
        }
        file => file?,
    };
    let mut sum = Sha256::new();
    io::copy(&mut file, &mut sum)?;
    Ok(format!("{:x}", sum.finalize()))
}

fn sum(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

fn modules(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_module = path.extension().is_some_and(|extension| extension == "py");
        if is_module || path.join("__init__.py").is_file() {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
