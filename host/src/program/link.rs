//! How a guest is called, and what its imports are linked to.

use anyhow::{Context, Result, anyhow, ensure};
use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, HasData, InstancePre, Lift, Linker, Lower, Resource,
};
use wasmtime::{Engine, ExternType, Module};
use wasmtime_wasi::p2::bindings::io::{error, poll, streams};
use wasmtime_wasi::{ResourceTable, p2 as wasi_p2, p3 as wasi_p3};
use wasmtime_wasi_http::{p2, p3};

use super::cgi::Command;
use super::instance::DeferredCall;
use crate::contract::GATEWAY;
use crate::guest::compiled::Loaded;
use crate::guest::face::{self, CommandVersion, Face};
use crate::guest::offer;
use crate::sandbox::imports::{files, gateway, http, modules, random, timers};
use crate::sandbox::state::State;

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
    let linker = linker(component.engine(), face.is_concurrent())?;
    let pre = link_imports(&linker, component)?;
    let exports = Exports { component, ty: linker.substituted_component_type(component)? };
    let handler = match (face.command(), face.handler()) {
        (Some((CommandVersion::P2, run)), _) => {
            exports.function::<(), (Result<(), ()>,)>(run, "run")?;
            let indices = wasi_p2::bindings::CommandIndices::new(&pre)?;
            return Ok(Entry::Command(Command::P2(pre, indices)));
        }
        (Some((CommandVersion::P3, run)), _) => {
            exports.function::<(), (Result<(), ()>,)>(run, "run")?;
            let indices = wasi_p3::bindings::CommandIndices::new(&pre)?;
            return Ok(Entry::Command(Command::P3(pre, indices)));
        }
        (None, Some(handler)) if face.is_p3() => {
            use p3::bindings::http::types::{ErrorCode, Request, Response};
            exports.function::<(Resource<Request>,), (Result<Resource<Response>, ErrorCode>,)>(
                handler, "handle",
            )?;
            Handler::P3(p3::bindings::ServiceIndices::new(&pre)?)
        }
        (None, handler) => {
            use p2::bindings::http::types::{IncomingRequest, ResponseOutparam};
            let handler = handler.context("exports no handler")?;
            exports
                .function::<(Resource<IncomingRequest>, Resource<ResponseOutparam>), ()>(handler, "handle")?;
            Handler::P2(p2::bindings::ProxyIndices::new(&pre)?)
        }
    };
    let callback = face.callback().map(|callback| {
        let run = exports.function::<(DeferredCall,), (Result<(), String>,)>(callback, "run")?;
        anyhow::Ok(Callback { run, is_async: face::is_async_callback(callback) })
    });
    let is_gateway = face.imports_a(GATEWAY);
    Ok(Entry::Proxy(Proxy { pre, handler, callback: callback.transpose()?, is_gateway }))
}

/// What a component exports, with the host's resources for those that it imports.
struct Exports<'a> {
    component: &'a Component,
    ty: types::Component,
}

impl Exports<'_> {
    /// A function that is called with these types. wasmtime itself would tell at the first
    /// call that it has others.
    fn function<P, R>(&self, interface: &str, name: &str) -> Result<ComponentExportIndex>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let found = || {
            let index = self.component.get_export_index(None, interface)?;
            let index = self.component.get_export_index(Some(&index), name)?;
            let engine = self.component.engine();
            let ComponentItem::ComponentInstance(exported) = self.ty.get_export(engine, interface)?.ty else {
                return None;
            };
            let ComponentItem::ComponentFunc(function) = exported.get_export(engine, name)?.ty else {
                return None;
            };
            Some((index, function))
        };
        let (index, function) =
            found().with_context(|| format!("exports `{interface}` without the function `{name}`"))?;
        let same = function.typecheck::<P, R>(&self.ty.instance_type()).map_err(anyhow::Error::from);
        same.with_context(|| format!("exports `{interface}` with a function `{name}` that is of another type; build it with the interface that has this name"))?;
        Ok(index)
    }
}

/// All that a component imports is there.
pub fn link_imports(linker: &Linker<State>, component: &Component) -> Result<InstancePre<State>> {
    linker.instantiate_pre(component).map_err(|error| refused(offer::missing(linker, component), error))
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
    add_io_to_linker(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    if is_concurrent {
        wasi_p3::add_to_linker(&mut linker)?;
        p3::add_to_linker(&mut linker)?;
        http::add_to_linker(&mut linker)?;
    }
    files::add_to_linker(&mut linker, is_concurrent)?;
    random::add_to_linker(&mut linker)?;
    gateway::add_to_linker(&mut linker)?;
    timers::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Takes the place of wasmtime's functions for streams, which ask for more than the table.
fn add_io_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    error::add_to_linker::<_, Table>(linker, State::table)?;
    poll::add_to_linker::<_, Table>(linker, State::table)?;
    streams::add_to_linker::<_, Table>(linker, State::table)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What functions for streams are given.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

pub fn module_linker(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<State>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, State::preview1)?;
    modules::add_to_linker(&mut linker)?;
    timers::add_to_module_linker(&mut linker)?;
    Ok(linker)
}
