//! How a guest is called, and what its imports are linked to.

use anyhow::{Result, anyhow, ensure};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};
use wasmtime::{Engine, ExternType, Module};
use wasmtime_wasi::{p2 as wasi_p2, p3 as wasi_p3};
use wasmtime_wasi_http::{p2, p3};

use crate::cgi::Command;
use crate::compiled::Loaded;
use crate::face::{CALLBACK, CALLBACK_ASYNC, CommandVersion, Face};
use crate::imports::{files, gateway, timers};
use crate::offer;
use crate::state::State;

/// How a guest is called.
pub(crate) enum Entry {
    Proxy(Proxy),
    Command(Command),
}

/// A component that answers requests itself, by `wasi:http`.
pub(crate) struct Proxy {
    pub(crate) pre: InstancePre<State>,
    pub(crate) handler: Handler,
    pub(crate) callback: Option<Callback>,
    /// It imports `imports::gateway`.
    pub(crate) is_gateway: bool,
}

/// The export that answers requests.
pub(crate) enum Handler {
    /// `wasi:http/incoming-handler` 0.2.
    P2(p2::bindings::ProxyIndices),
    /// `wasi:http/handler` 0.3.
    P3(p3::bindings::ServiceIndices),
}

/// The export that runs deferred calls.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) run: ComponentExportIndex,
    pub(crate) is_async: bool,
}

impl Entry {
    pub fn link(code: &Loaded, face: &Face) -> Result<Entry> {
        match code {
            Loaded::Component(component) => link_component(component, face),
            Loaded::Module(module) => Ok(Entry::Command(Command::Module(link_module(module)?))),
        }
    }
}

fn link_component(component: &Component, face: &Face) -> Result<Entry> {
    let pre = link_imports(component, face)?;
    let handler = match face.command() {
        Some(CommandVersion::P2) => {
            let indices = wasi_p2::bindings::CommandIndices::new(&pre)?;
            return Ok(Entry::Command(Command::P2(pre, indices)));
        }
        Some(CommandVersion::P3) => {
            let indices = wasi_p3::bindings::CommandIndices::new(&pre)?;
            return Ok(Entry::Command(Command::P3(pre, indices)));
        }
        None if face.is_p3() => Handler::P3(p3::bindings::ServiceIndices::new(&pre)?),
        None => Handler::P2(p2::bindings::ProxyIndices::new(&pre)?),
    };
    let callback = [(CALLBACK, false), (CALLBACK_ASYNC, true)].into_iter().find_map(|(name, is_async)| {
        let interface = component.get_export_index(None, name)?;
        let run = component.get_export_index(Some(&interface), "run")?;
        Some(Callback { run, is_async })
    });
    let is_gateway = face.imports_a(gateway::INTERFACE);
    Ok(Entry::Proxy(Proxy { pre, handler, callback, is_gateway }))
}

/// All that a component imports is there.
pub fn link_imports(component: &Component, face: &Face) -> Result<InstancePre<State>> {
    let linker = linker(component.engine(), face.is_concurrent())?;
    linker.instantiate_pre(component).map_err(|error| refused(offer::missing(&linker, component), error))
}

fn link_module(module: &Module) -> Result<wasmtime::InstancePre<State>> {
    let is_start = |ty: ExternType| ty.func().is_some_and(|ty| ty.params().len() + ty.results().len() == 0);
    ensure!(
        module.get_export("_start").is_some_and(is_start),
        "exports a `_start` that is not a function without parameters and results; build a command"
    );
    let linker = module_linker(module.engine())?;
    linker.instantiate_pre(module).map_err(|error| refused(offer::missing_of_module(&linker, module), error))
}

fn refused(missing: Vec<offer::Missing>, error: wasmtime::Error) -> anyhow::Error {
    match offer::refusal(&missing) {
        Some(refusal) => anyhow!(refusal),
        None => anyhow::Error::from(error).context("cannot be linked"),
    }
}

pub fn linker(engine: &Engine, is_concurrent: bool) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi_p2::add_to_linker_async(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    if is_concurrent {
        wasi_p3::add_to_linker(&mut linker)?;
        p3::add_to_linker(&mut linker)?;
    }
    files::add_to_linker(&mut linker)?;
    gateway::add_to_linker(&mut linker)?;
    timers::add_to_linker(&mut linker)?;
    Ok(linker)
}

pub fn module_linker(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<State>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, State::preview1)?;
    timers::add_to_module_linker(&mut linker)?;
    Ok(linker)
}
