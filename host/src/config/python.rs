//! How a Python file becomes a component.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use clap::Args;

use super::cache::CacheOptions;
use super::hints::Meant;
use super::paths::{check_file, check_folder};
use crate::python::{Application, HashSeed, Tools};

/// Its name, unless another one is given (PEP 3333 has it, and uWSGI).
const APPLICATION: &str = "application";

/// How a Python file becomes a component.
#[derive(Args, Debug)]
pub struct PythonOptions {
    /// The name of the application in the Python file.
    #[arg(
        long,
        value_name = "NAME",
        default_value = APPLICATION,
        help_heading = "What to serve"
    )]
    pub callable: String,

    /// A folder with Python modules, or with packages as `pip install --target DIR`
    /// puts them there. What the application imports goes into the component.
    /// Repeatable; the file's own folder and the current one need not be named.
    #[arg(long, value_name = "DIR", help_heading = "What to serve")]
    pub pythonpath: Vec<PathBuf>,

    /// Install nothing: componentize-py, which makes components of Python files, must
    /// be there already.
    #[arg(long, help_heading = "What to serve")]
    pub offline: bool,
}

impl PythonOptions {
    /// Modules are looked for beside the file, in the current folder, as uWSGI does,
    /// and in those that were named.
    pub fn application(&self, file: &Path, environment: Vec<(String, String)>) -> Application {
        let own = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in
            own.into_iter().chain([Path::new(".")]).chain(self.pythonpath.iter().map(PathBuf::as_path))
        {
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        let (file, callable) = (file.to_owned(), self.callable.clone());
        Application { file, callable, folders, environment, seed: HashSeed::OfTools }
    }

    pub fn tools(&self, cache: &CacheOptions) -> Tools {
        Tools { folder: cache.tools(), offline: self.offline }
    }

    pub fn check(&self, file: &Path) -> Result<()> {
        check_file("--wsgi-file ", file).map_err(|error| match Meant::by(&file.to_string_lossy()) {
            Some(meant) => anyhow!("{error}; to serve a name in a file: {meant}"),
            None => error,
        })?;
        ensure!(file.is_file(), "--wsgi-file {}: is not a file", file.display());
        for folder in &self.pythonpath {
            check_folder("--pythonpath ", folder)?;
            ensure!(folder.is_dir(), "--pythonpath {}: is not a folder", folder.display());
        }
        self.check_callable()
    }

    /// Nothing was asked of a Python file if there is none.
    pub fn check_unused(&self) -> Result<()> {
        ensure!(
            self.pythonpath.is_empty(),
            "--pythonpath is for --wsgi-file; a component has its modules in it"
        );
        ensure!(self.callable == APPLICATION, "--callable is for --wsgi-file");
        Ok(())
    }

    fn check_callable(&self) -> Result<()> {
        let is_name = |c: char| c == '_' || c.is_alphanumeric();
        ensure!(
            self.callable.chars().all(is_name) && self.callable.starts_with(|c: char| !c.is_numeric()),
            "--callable {}: is not the name of a function",
            self.callable
        );
        Ok(())
    }
}
