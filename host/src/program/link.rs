//! How a guest is called, and what its imports are linked to.

use anyhow::{Context, Result, anyhow, ensure};
use wasmtime::component::{Component, HasData, InstancePre, Linker, Resource};
use wasmtime::{Engine, ExternType, Module};
use wasmtime_wasi::p2::bindings::io::{error, poll, streams};
use wasmtime_wasi::{ResourceTable, p2 as wasi_p2, p3 as wasi_p3};
use wasmtime_wasi_http::p2::bindings::http::types::{IncomingRequest, ResponseOutparam};
use wasmtime_wasi_http::p3::bindings::http::types::{ErrorCode, Request, Response};
use wasmtime_wasi_http::{p2, p3};
use wasmtime_wasi_tls as wasi_tls;

use super::cgi::Command;
use crate::contract::GATEWAY;
use crate::guest::kept_code::{Export, Exports, Loaded};
use crate::guest::missing::{self, Missing};
use crate::guest::summary::{self, CommandVersion, Summary};
use crate::sandbox::deferred_call::DeferredCall;
use crate::sandbox::imports::{
    core_modules, files, gateway, http, keyvalue, named_values, random, sockets, timers, tls,
};
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
    P2(Export<(Resource<IncomingRequest>, Resource<ResponseOutparam>), ()>),
    /// `wasi:http/handler` 0.3.
    P3(Export<RequestP3, AnswerP3>),
}

/// What `handle` of `wasi:http` 0.3 takes, and gives.
pub(crate) type RequestP3 = (Resource<Request>,);
pub(crate) type AnswerP3 = (Result<Resource<Response>, ErrorCode>,);

/// The export that runs deferred calls.
pub(crate) struct Callback {
    pub(crate) run: Export<(DeferredCall,), (Result<(), String>,)>,
    pub(crate) is_async: bool,
}

impl Entry {
    pub(crate) fn link(code: &Loaded, summary: &Summary) -> Result<Entry> {
        match code {
            Loaded::Component(component) => link_component(component, summary),
            Loaded::Module(module) => Ok(Entry::Command(Command::Module(link_module(module)?))),
        }
    }
}

fn link_component(component: &Component, summary: &Summary) -> Result<Entry> {
    let linker = linker(component, summary.is_concurrent())?;
    let pre = link_imports(&linker, component)?;
    let exports = Exports::of(component, &linker)?;
    let handler = match (summary.command(), summary.handler()) {
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
        (None, Some(handler)) if summary.is_p3() => Handler::P3(exports.function(handler, "handle")?),
        (None, handler) => {
            let handler = handler.context("exports no handler")?;
            Handler::P2(exports.function(handler, "handle")?)
        }
    };
    let callback = summary.callback().map(|callback| {
        let run = exports.function(callback, "run")?;
        anyhow::Ok(Callback { run, is_async: summary::is_async_callback(callback) })
    });
    let is_gateway = summary.imports_a(GATEWAY);
    Ok(Entry::Proxy(Proxy { pre, handler, callback: callback.transpose()?, is_gateway }))
}

/// All that a component imports is there.
pub(crate) fn link_imports(linker: &Linker<State>, component: &Component) -> Result<InstancePre<State>> {
    linker.instantiate_pre(component).map_err(|error| refused(missing::missing(linker, component), error))
}

fn link_module(module: &Module) -> Result<wasmtime::InstancePre<State>> {
    let is_start = |ty: ExternType| ty.func().is_some_and(|ty| ty.params().len() + ty.results().len() == 0);
    ensure!(
        module.get_export("_start").is_some_and(is_start),
        "exports a `_start` that is not a function without parameters and results; build a command"
    );
    let linker = module_linker(module.engine())?;
    linker
        .instantiate_pre(module)
        .map_err(|error| refused(missing::missing_of_module(&linker, module), error))
}

fn refused(missing: Vec<Missing>, error: wasmtime::Error) -> anyhow::Error {
    match missing::refusal(&missing) {
        Some(refusal) => anyhow!(refusal),
        None => anyhow::Error::from(error).context("cannot be linked"),
    }
}

/// What there is for a component.
pub(crate) fn linker(component: &Component, is_concurrent: bool) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(component.engine());
    wasi_p2::add_to_linker_async(&mut linker)?;
    add_io_to_linker(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    if is_concurrent {
        wasi_p3::add_to_linker(&mut linker)?;
        p3::add_to_linker(&mut linker)?;
    }
    http::add_to_linker(&mut linker, is_concurrent)?;
    files::add_to_linker(&mut linker, is_concurrent)?;
    random::add_to_linker(&mut linker)?;
    sockets::add_to_linker(&mut linker, is_concurrent)?;
    gateway::add_to_linker(&mut linker)?;
    tls::add_to_linker(&mut linker)?;
    add_tls_to_linker(&mut linker, is_concurrent)?;
    timers::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker, component)?;
    named_values::add_to_linker(&mut linker, component)?;
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

/// `wasi:tls`, of which there are drafts.
fn add_tls_to_linker(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    let mut options = wasi_tls::p2::LinkOptions::default();
    options.tls(true);
    wasi_tls::p2::add_to_linker(linker, &options)?;
    if is_concurrent {
        wasi_tls::p3::add_to_linker(linker)?;
    }
    Ok(())
}

/// What functions for streams are given.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

pub(crate) fn module_linker(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<State>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, State::preview1)?;
    core_modules::add_to_linker(&mut linker)?;
    timers::add_to_module_linker(&mut linker)?;
    Ok(linker)
}
