//! componentize-py, which puts CPython and an application into one component: where
//! it is, how it gets there, and how it is run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use include_dir::{Dir, include_dir};
use walkdir::WalkDir;

use super::application::Application;
use super::variables::{self, Asked};
use crate::cache::{ANOTHER, Folder};
use crate::contract::WIT;
use crate::system::child;
use crate::system::confined;
use crate::system::file;
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
/// An application that computes for ever when it is imported is not waited for longer.
const TIME_MAX: Duration = Duration::from_secs(900);

/// Where the tool is looked for.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Where tools are installed; none if the user has no such folder.
    pub folder: Option<PathBuf>,
    /// Nothing may be installed.
    pub offline: bool,
    /// What is run while a component is built can write nowhere else.
    pub is_confined: bool,
}

/// The tool.
pub struct Tool {
    /// Where it is, with what goes into components beside it.
    folder: PathBuf,
    is_confined: bool,
}

/// A component that was made.
pub(super) struct Built {
    pub component: Vec<u8>,
    /// Variables that the application asked for.
    pub asked: Asked,
    /// What went into it beside the application's file, as the adapter noted it: files, each with
    /// the SHA-256 sum of its content, or "missing", and the folders of packages, each with that
    /// of the names of its modules.
    pub made_of: Vec<(PathBuf, String)>,
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

    /// Nobody else can have changed what is to be run.
    fn tool(&self, folder: PathBuf) -> Result<Tool> {
        let name = folder.display();
        let remove = || format!("remove {name}, so that it is installed anew, and see who can write there");
        Way::to(&folder).and_then(|way| way.check()).with_context(remove)?;
        for entry in WalkDir::new(&folder) {
            let entry = entry.with_context(remove)?;
            let why = trusted_path::check(&entry.metadata()?).err();
            ensure!(why.is_none(), "{} {}; {}", entry.path().display(), why.unwrap_or_default(), remove());
        }
        Ok(Tool { folder, is_confined: self.is_confined })
    }
}

/// Puts the tool in its place at once: another server may be doing the same.
fn install(tools: &Folder, folder: &Path) -> Result<()> {
    let unfinished = tools.temporary_folder()?;
    let mut pip = confined::unconfined("python3");
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

/// Makes the component, in the folder `stage` of its own.
pub(super) fn build(tool: &Tool, application: &Application, source: &[u8], stage: &Path) -> Result<Built> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = stage.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (wit, adapter, settings) = (folder("wit")?, folder("adapter")?, folder("settings")?);
    lay_out(&wit)?;
    ADAPTER.extract(&adapter)?;
    fs::write(settings.join("wasm_serve_settings.py"), settings_module(application))?;
    fs::write(settings.join("source"), source)?;
    fs::write(settings.join("variables.json"), variables::to_json(&application.environment))?;
    let component = stage.join("component.wasm");
    // In this order modules are looked for: none of the application's replaces one
    // of the adapter's.
    let ours = [adapter, settings.clone(), tool.folder.clone()];
    let mut python = match tool.is_confined {
        true => confined::command("python3", stage),
        false => confined::unconfined("python3"),
    };
    // Without the packages that a user has beside the system's.
    python.args(["-s", "-c", RUN, "--wit-path"]).arg(&wit).args(["componentize", MODULE]);
    for folder in ours.iter().chain(&application.folders) {
        python.arg("--python-path").arg(std::path::absolute(folder)?);
    }
    python.arg("--output").arg(&component);
    // By itself, the tool would bundle packages that are installed for the host's Python.
    python.env("PYTHONPATH", &tool.folder).env("VIRTUAL_ENV", stage).env_remove("PYTHONHOME");
    python.env("PYTHONDONTWRITEBYTECODE", "1").env("TMPDIR", folder("temporary")?);
    // Python looks for modules in the current folder first, and the application's are
    // not for the host's Python.
    python.current_dir(&tool.folder);
    let output = child::run(python, TIME_MAX)?;
    if !output.status.success() {
        // The traceback of the application, or else whatever the tool said.
        let why = text(&settings.join("failure.txt")).unwrap_or_else(|_| child::said(&output));
        bail!("no component can be made of it:\n{}", why.trim_end());
    }
    let mut component = file::read_itself(&component).context("componentize-py has written no component")?;
    let asked = file::read_itself(&settings.join("asked.json")).ok().and_then(|json| Asked::read(&json));
    let asked = asked.context("the adapter has not written what variables were asked for")?;
    asked.add_to(&mut component);
    Ok(Built { component, asked, made_of: noted(&settings, ours.len(), &application.folders)? })
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

/// What the adapter is told.
fn settings_module(application: &Application) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "PATH = {}\nCALLABLE = {}\n",
        text(&application.file.to_string_lossy()),
        text(&application.callable)
    )
}

/// What the adapter has noted. It sees the folders as `/0`, `/1` and so on, `ours` of them
/// before those of the application.
fn noted(settings: &Path, ours: usize, folders: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let list = text(&settings.join("files.txt")).context("the adapter has written no list")?;
    let noted = |line: &str| {
        let (sum, path) = line.split_once(' ')?;
        let (number, rest) = path.strip_prefix('/')?.split_once('/')?;
        let folder = folders.get(number.parse::<usize>().ok()?.checked_sub(ours)?)?;
        Some((folder.join(rest), sum.to_owned()))
    };
    Ok(list.lines().filter_map(noted).collect())
}

/// What the adapter has written where the application could have put something else.
fn text(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&file::read_itself(path)?).into_owned())
}
