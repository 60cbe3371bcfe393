//! An application is imported in an instance of the interpreter, and what is in its memory then is
//! written down as a component. This is done in a process of its own, which can be ended, and
//! within WebAssembly: the application sees its folders, which it cannot write to, and no network.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Instance, Lift, Linker, ResourceType, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable};
use wasmtime_wasi::{FsPerms, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::application::Application;
use super::interpreter::{self, Interpreter};
use super::reset;
use super::variables::Asked;
use crate::system::child;
use crate::system::sealed::{Sealed, Unsealed};

/// The task's name on the command line.
pub(crate) const TASK: &str = "own-task-import";

/// An application that computes for ever when it is imported is not waited for longer.
const TIME_MAX: Duration = Duration::from_secs(900);
/// The export of `guests/python/wit`.
const APPLICATION: &str = "wasm-serve:gateway/application@0.2.0";
/// What a process shows of what the interpreter itself has printed, if that ends without an answer.
const SAID_BYTES_MAX: usize = 64 << 10;
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
    let asked = json!({
        "path": application.file.to_string_lossy(),
        "name": application.callable,
        "source": source.iter().copied().map(char::from).collect::<String>(),
        "variables": application.environment,
    });
    let asked = Sealed::new("application", asked.to_string().as_bytes())?;
    asked.file().rewind()?;
    let (component, noted) = (Unsealed::new("component")?, Unsealed::new("noted")?);
    let code = interpreter.code()?;
    let mut program = child::own_program(TASK);
    program.arg("--interpreter").arg(interpreter.folder()).arg("--code").arg(child::path_of(code.file()));
    program.arg("--component").arg(child::path_of(component.file()));
    program.arg("--noted").arg(child::path_of(noted.file()));
    for folder in &application.folders {
        program.arg("--folder").arg(std::path::absolute(folder)?);
    }
    program.stdin(Stdio::from(asked.into_file()));
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
    /// Where the interpreter is.
    pub interpreter: &'a Path,
    /// Its code.
    pub code: &'a Path,
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
    let asked: Value = serde_json::from_reader(io::stdin())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(made(files, &asked))? {
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
async fn made(files: &Files<'_>, asked: &Value) -> Result<Result<(Vec<u8>, String), String>> {
    let engine = Engine::new(&interpreter::settings().config())?;
    // SAFETY: a process of this user compiled it, put it where nobody else can write, and has given a copy
    // that nobody can change.
    let component = unsafe { Component::deserialize_file(&engine, files.code)? };
    let said = MemoryOutputPipe::new(SAID_BYTES_MAX);
    let mut store = Store::new(&engine, Host::new(files, &said)?);
    // There is a limit of time for the process.
    store.set_epoch_deadline(u64::MAX);
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    leave_out_requests(&mut linker, &component)?;
    let instance = linker.instantiate_async(&mut store, &component).await?;
    let loaded = load(&mut store, &instance, files, asked).await;
    let noted = match loaded.with_context(|| String::from_utf8_lossy(&said.contents()).into_owned())? {
        Ok(noted) => noted,
        Err(refused) => return Ok(Err(refused)),
    };
    for name in reset::names() {
        let reset = instance.get_typed_func::<(), ()>(&mut store, name)?;
        reset.call_async(&mut store, ()).await?;
    }
    let interpreter = interpreter::component(files.interpreter)?;
    let wizer = Wizer::new();
    let (written, _) = wizer.instrument_component(&interpreter)?;
    let component = wizer.snapshot_component(&written, &mut Memory { store, instance }).await?;
    Ok(Ok((component, noted)))
}

/// Who begins with these, of what the interpreter imports, is there in requests alone.
const OF_REQUESTS: [&str; 2] = ["wasi:http/", "wasm-serve:"];

/// What there is in requests alone ends the import when it is called.
fn leave_out_requests(linker: &mut Linker<Host>, component: &Component) -> Result<()> {
    let engine = component.engine();
    for (interface, imported) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(imported) = imported.ty else { continue };
        if !OF_REQUESTS.iter().any(|begin| interface.starts_with(begin)) {
            continue;
        }
        let mut left_out = linker.instance(interface)?;
        for (name, export) in imported.exports(engine) {
            match export.ty {
                ComponentItem::Resource(_) => left_out.resource(name, resource(name), |_, _| Ok(()))?,
                ComponentItem::ComponentFunc(_) => {
                    let what = format!("{interface} {name}");
                    left_out.func_new(name, move |_, _, _, _| {
                        Err(wasmtime::format_err!(
                            "{what} can be called in a request, not while the component is built"
                        ))
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The host's kind of a resource: these are of WASI itself wherever they are used.
fn resource(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<DynPollable>(),
        "input-stream" => ResourceType::host::<DynInputStream>(),
        "output-stream" => ResourceType::host::<DynOutputStream>(),
        "io-error" => ResourceType::host::<wasmtime::Error>(),
        _ => ResourceType::host::<()>(),
    }
}

type Parameters<'a> = (&'a str, &'a str, &'a str, Vec<String>, Vec<(&'a str, &'a str)>);

async fn load(
    store: &mut Store<Host>,
    instance: &Instance,
    files: &Files<'_>,
    asked: &Value,
) -> Result<Result<String, String>> {
    let text = |name: &str| asked[name].as_str().unwrap_or_default();
    let variables = asked["variables"].as_array().into_iter().flatten();
    let variables = variables.filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?))).collect();
    let folders = (0..files.folders.len()).map(interpreter::folder_of_application).collect();
    let index = instance.get_export_index(&mut *store, None, APPLICATION);
    let index = index.and_then(|index| instance.get_export_index(&mut *store, Some(&index), "load"));
    let index = index.context("the interpreter has no `load`")?;
    let load = instance.get_typed_func::<Parameters<'_>, (Result<String, String>,)>(&mut *store, index)?;
    let asked = (text("path"), text("name"), text("source"), folders, variables);
    Ok(load.call_async(store, asked).await?.0)
}

/// What the application can reach while it is imported.
struct Host {
    context: WasiCtx,
    table: ResourceTable,
}

impl Host {
    fn new(files: &Files<'_>, said: &MemoryOutputPipe) -> Result<Host> {
        let mut context = WasiCtxBuilder::new();
        context.stdout(said.clone()).stderr(said.clone());
        // A socket can be made, as everywhere; no address can be reached with it.
        context.allow_tcp(true).allow_udp(true);
        let library = interpreter::library(files.interpreter);
        context.preopened_dir(library, interpreter::LIBRARY, FsPerms::ReadOnly)?;
        for (folder, number) in files.folders.iter().zip(0..) {
            let name = interpreter::folder_of_application(number);
            let shown = context.preopened_dir(folder, name, FsPerms::ReadOnly);
            shown.map_err(anyhow::Error::from).with_context(|| folder.display().to_string())?;
        }
        Ok(Host { context: context.build(), table: ResourceTable::new() })
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }
}

/// The memory and the variables of an instance, by exports that were added for this.
struct Memory {
    store: Store<Host>,
    instance: Instance,
}

impl Memory {
    /// What such an export returns. That it is there, and does not fail, is known of the interpreter.
    async fn call<R: Lift + 'static>(&mut self, instance: &str, function: &str) -> R {
        let store = &mut self.store;
        let index = self.instance.get_export_index(&mut *store, None, instance).expect("was added");
        let index = self.instance.get_export_index(&mut *store, Some(&index), function).expect("was added");
        let function = self.instance.get_typed_func::<(), (R,)>(&mut *store, index).expect("is of this type");
        function.call_async(store, ()).await.expect("only reads").0
    }
}

impl ComponentInstanceState for Memory {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        function: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let list = self.call::<WasmList<u8>>(instance, function).await;
        contents(list.as_le_slice(&self.store));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, function: &str) -> i32 {
        self.call(instance, function).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, function: &str) -> i64 {
        self.call(instance, function).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, function: &str) -> u32 {
        self.call::<f32>(instance, function).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, function: &str) -> u64 {
        self.call::<f64>(instance, function).await.to_bits()
    }
}
