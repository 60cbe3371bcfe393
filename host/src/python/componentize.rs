//! componentize-py, which puts CPython and our adapter into one component: where it is,
//! how it gets there, and how it is run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use include_dir::{Dir, include_dir};
use walkdir::WalkDir;

use crate::cache::{ANOTHER, Folder};
use crate::contract::WIT;
use crate::system::child;
use crate::system::file;
use crate::system::program;
use crate::system::trusted_path::{self, Way};
use crate::terminal::say_while;

/// What is installed, in the manner of a requirements file. Its version is part of
/// the folder's name.
pub(super) const COMPONENTIZE: &str = "componentize-py==0.25.1";
/// Pickles what the standard library cannot: lambdas and closures.
pub(super) const CLOUDPICKLE: &str = "cloudpickle==3.1.3";

/// The Python side of this server, which calls the application.
pub(super) static ADAPTER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../guests/python/adapter");
pub(super) static PYTHON_WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../guests/python/wit");
/// The adapter's module that has the exports.
const MODULE: &str = "wasm_serve_application";
/// Runs the tool without its script, whose first line has the path of the place
/// where it was installed.
const RUN: &str =
    "import sys, componentize_py; sys.argv[0] = 'componentize-py'; sys.exit(componentize_py.script())";
/// Installing it, or running it, takes a small part of this.
const TIME_MAX: Duration = Duration::from_secs(900);

/// Where the tool is looked for.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Where tools are installed; none if the user has no such folder.
    pub folder: Option<PathBuf>,
    /// Nothing may be installed.
    pub offline: bool,
}

/// The tool.
pub struct Tool {
    /// Where it is, with what goes into components beside it.
    folder: PathBuf,
}

impl Tools {
    pub fn find_or_install(&self) -> Result<Tool> {
        let folder = self.folder.as_deref().context(
            "componentize-py is needed, and there is no place for it: neither XDG_CACHE_HOME nor HOME is set; name one with --cache DIR",
        )?;
        let folder = folder.join(COMPONENTIZE.replace("==", "-"));
        if folder.is_dir() {
            return self.tool(folder);
        }
        let by_hand =
            format!("python3 -m pip install --target {} {COMPONENTIZE} {CLOUDPICKLE}", folder.display());
        ensure!(
            !self.offline,
            "componentize-py is needed, and --offline forbids to install it; install it with `{by_hand}`"
        );
        let what = format_args!(
            "Installing {COMPONENTIZE} and {CLOUDPICKLE} from PyPI, about 50 MB, into {}",
            folder.display()
        );
        // Before anything is loaded.
        let tools = folder.parent().context("tools are in a folder")?;
        let tools = Folder::open(tools)
            .and_then(|opened| opened.temporary_folder().map(|_| opened))
            .with_context(|| format!("tools cannot be put into {}{ANOTHER}", tools.display()))?;
        say_while(what, || install(&tools, &folder))
            .with_context(|| format!("componentize-py cannot be installed; try `{by_hand}`"))?;
        self.tool(folder)
    }

    fn tool(&self, folder: PathBuf) -> Result<Tool> {
        check(&folder)?;
        Ok(Tool { folder })
    }
}

impl Tool {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Nobody else can have changed what is in the folder, which is to be run.
pub(super) fn check(folder: &Path) -> Result<()> {
    let name = folder.display();
    let remove = || format!("remove {name}, so that it is made anew, and see who can write there");
    Way::to(folder).and_then(|way| way.check()).with_context(remove)?;
    for entry in WalkDir::new(folder) {
        let entry = entry.with_context(remove)?;
        let why = trusted_path::check(&entry.metadata()?).err();
        ensure!(why.is_none(), "{} {}; {}", entry.path().display(), why.unwrap_or_default(), remove());
    }
    Ok(())
}

/// Puts the tool in its place at once: another server may be doing the same.
fn install(tools: &Folder, folder: &Path) -> Result<()> {
    let unfinished = tools.temporary_folder()?;
    let mut pip = program::ending_with_this("python3");
    // Isolated: what lies in the current folder is the application's, not pip's.
    pip.args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    pip.arg(unfinished.path()).args([COMPONENTIZE, CLOUDPICKLE]);
    let output = child::run(pip, TIME_MAX)?;
    ensure!(output.status.success(), "pip says:\n{}", child::said(&output));
    if fs::rename(unfinished.path(), folder).is_err() {
        ensure!(folder.is_dir(), "{} cannot be written", folder.display());
    }
    Ok(())
}

/// Makes the interpreter's component, with the folder `stage` to work in. The files of the
/// standard library go into `library`.
pub(super) fn run(tool: &Tool, stage: &Path, library: &Path) -> Result<Vec<u8>> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = stage.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (wit, adapter) = (folder("wit")?, folder("adapter")?);
    lay_out(&wit)?;
    ADAPTER.extract(&adapter)?;
    let component = stage.join("component.wasm");
    let mut python = program::ending_with_this("python3");
    // Without the packages that a user has beside the system's.
    python.args(["-s", "-c", RUN, "--wit-path"]).arg(&wit).args(["componentize", MODULE]);
    // In this order modules are looked for.
    for folder in [&adapter, &tool.folder, library] {
        python.arg("--python-path").arg(folder);
    }
    python.arg("--output").arg(&component);
    // By itself, the tool would bundle packages that are installed for the host's Python.
    python.env("PYTHONPATH", &tool.folder).env("VIRTUAL_ENV", stage).env_remove("PYTHONHOME");
    python.env("PYTHONDONTWRITEBYTECODE", "1").env("TMPDIR", folder("temporary")?);
    python.current_dir(&tool.folder);
    let output = child::run(python, TIME_MAX)?;
    ensure!(output.status.success(), "componentize-py says:\n{}", child::said(&output));
    file::read_itself(&component).context("componentize-py has written no component")
}

/// Puts what the component imports and exports where tools look for it: each package
/// that another one uses in a folder of its own.
fn lay_out(folder: &Path) -> Result<()> {
    PYTHON_WIT.extract(folder)?;
    WIT.extract(folder)?;
    let (name, own) = ("deferred.wit", folder.join("deps/deferred"));
    fs::create_dir(&own)?;
    fs::rename(folder.join(name), own.join(name))?;
    Ok(())
}
