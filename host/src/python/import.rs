//! An application is imported in an instance of the interpreter, and what is in its memory then is
//! written down as a component. This is done in a process of its own, which can be ended, and
//! within WebAssembly: the application sees its folders, which it cannot write to, and no network.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wasmtime::Engine;

use super::application::Application;
use super::instance::{Imports, Told};
use super::interpreter::{self, Interpreter};
use super::snapshot;
use super::variables::Asked;
use crate::system::child;
use crate::system::sealed::{Sealed, Unsealed};

/// The task's name on the command line.
pub(crate) const TASK: &str = "own-task-import";

/// An application that computes for ever when it is imported is not waited for longer.
const TIME_MAX: Duration = Duration::from_secs(900);
/// The application itself is wrong.
const REFUSED: u8 = 10;

/// A component with the application in it.
pub(super) struct Imported {
    pub component: Vec<u8>,
    /// Variables that the application asked for.
    pub asked: Asked,
    /// What went into it beside the application's file, as the adapter noted it: files, each with
    /// the SHA-256 sum of its content, or "missing", and the folders of packages, each with that
    /// of the names of its modules.
    pub made_of: Vec<(PathBuf, String)>,
}

/// Imports the application, whose file's content is `source`.
pub(super) fn import(
    interpreter: &Interpreter,
    application: &Application,
    source: &[u8],
) -> Result<Imported> {
    let told = Told {
        path: application.file.to_string_lossy().into_owned(),
        name: application.callable.clone(),
        source: source.iter().copied().map(char::from).collect(),
        folders: (0..application.folders.len()).map(interpreter::folder_of_application).collect(),
        variables: application.environment.clone(),
    };
    let told = Sealed::new("application", told.to_json().as_bytes())?;
    told.file().rewind()?;
    let (component, noted) = (Unsealed::new("component")?, Unsealed::new("noted")?);
    let mut program = child::own_program(TASK);
    program.arg("--interpreter").arg(child::path_of(interpreter.component.file()));
    program.arg("--code").arg(child::path_of(interpreter.code.file()));
    program.arg("--library").arg(interpreter.library());
    program.arg("--component").arg(child::path_of(component.file()));
    program.arg("--noted").arg(child::path_of(noted.file()));
    for folder in &application.folders {
        program.arg("--folder").arg(std::path::absolute(folder)?);
    }
    program.stdin(Stdio::from(told.into_file()));
    let output = child::run(program, TIME_MAX)?;
    let said = child::said(&output);
    match output.status.code() {
        Some(0) => {}
        Some(code) if code == i32::from(REFUSED) => bail!("no component can be made of it:\n{said}"),
        _ => bail!("no component can be made of it: {}: {said}", child::how(output.status)),
    }
    let noted: Value = serde_json::from_slice(&content(&noted)?)?;
    let asked = Asked::parse(&noted["variables"]);
    let asked = asked.context("the adapter has not said what variables were asked for")?;
    let files = noted["files"].as_object().context("the adapter has not said what was opened")?;
    let path = |path: &str| interpreter::host_path(path, &application.folders);
    let made_of =
        files.iter().filter_map(|(name, sum)| Some((path(name)?, sum.as_str()?.to_owned()))).collect();
    let mut component = content(&component)?;
    asked.add_to(&mut component);
    Ok(Imported { component, asked, made_of })
}

fn content(file: &Unsealed) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(child::path_of(file.file()))?.read_to_end(&mut content)?;
    Ok(content)
}

/// What the process is told beside the application.
pub struct Files<'a> {
    /// The component of the interpreter.
    pub interpreter: &'a Path,
    /// Its code.
    pub code: &'a Path,
    /// The standard library.
    pub library: &'a Path,
    /// Where modules are looked for.
    pub folders: &'a [PathBuf],
    /// Where the component goes.
    pub component: &'a Path,
    /// Where what is known of it goes.
    pub noted: &'a Path,
}

/// What the process does: the application comes on standard input. `parent` has started the process.
pub(crate) fn run(parent: u32, files: &Files<'_>) -> Result<ExitCode> {
    child::begin(parent)?;
    child::dies_first();
    let told = Told::read(io::stdin())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(made(files, &told))? {
        Ok((component, noted)) => {
            File::create(files.component)?.write_all(&component)?;
            File::create(files.noted)?.write_all(noted.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(refused) => {
            eprintln!("{refused}");
            Ok(ExitCode::from(REFUSED))
        }
    }
}

/// The component with what was noted of it, or why the application cannot be imported.
async fn made(files: &Files<'_>, told: &Told) -> Result<Result<(Vec<u8>, String), String>> {
    let engine = Engine::new(&interpreter::settings().config())?;
    let imports = Imports { library: files.library, folders: files.folders };
    let mut instance = imports.instance(&engine, files.code).await?;
    instance.rehearse().await?;
    let noted = match instance.load(told).await? {
        Ok(noted) => noted,
        Err(refused) => return Ok(Err(refused)),
    };
    instance.reset().await?;
    Ok(Ok((snapshot::component(&fs::read(files.interpreter)?, instance).await?, noted)))
}
