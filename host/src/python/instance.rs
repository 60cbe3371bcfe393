//! An instance of the interpreter, in which an application is imported: what it can reach, and
//! what it is asked for.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentNamedList, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, TypedFunc,
    Val,
};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable};
use wasmtime_wasi::{FsPerms, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::interpreter;
use super::reset;
use super::said::Said;
use crate::contract::GATEWAY;

/// Its export for the build, of `guests/python/wit`.
const APPLICATION: &str = "wasm-serve:gateway/application@0.2.0";
/// Its export for requests, of the same world.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.12";
/// What begins with these, of what it imports, is there in requests alone.
const OF_REQUESTS: [&str; 2] = ["wasi:http/", "wasm-serve:"];
/// CPython adapts code to what it meets when that has run a few times.
const REHEARSALS: usize = 64;
/// A request as the host tells of it: see `request` of the gateway.
const REQUEST: &str = "\nREQUEST_METHOD\nGET\nPATH_INFO\n/\nQUERY_STRING\n\nSERVER_PROTOCOL\nHTTP/1.1\nSERVER_NAME\n127.0.0.1\nSERVER_PORT\n8080\nREMOTE_ADDR\n127.0.0.1\nHTTP_HOST\n127.0.0.1:8080\nHTTP_USER_AGENT\ncurl\nHTTP_ACCEPT\n*/*";
/// An application that needs more to be imported fits no server.
const MEMORY_BYTES_MAX: usize = 1 << 30;

/// The application, as the interpreter is told of it.
pub(super) struct Told {
    pub path: String,
    pub name: String,
    /// A character a byte.
    pub source: String,
    /// As the interpreter calls them.
    pub folders: Vec<String>,
    pub variables: Vec<(String, String)>,
}

impl Told {
    pub(super) fn to_json(&self) -> String {
        json!([self.path, self.name, self.source, self.folders, self.variables]).to_string()
    }

    pub(super) fn read(json: impl Read) -> Result<Told> {
        let json: Value = serde_json::from_reader(json)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Ok(Told {
            path: text(&json[0]),
            name: text(&json[1]),
            source: text(&json[2]),
            folders: list(&json[3]).iter().map(text).collect(),
            variables: list(&json[4]).iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        })
    }
}

/// What an instance sees of the host. It can write nowhere.
pub(super) struct Imports<'a> {
    /// The standard library.
    pub library: &'a Path,
    /// Where the application's modules are looked for.
    pub folders: &'a [PathBuf],
}

impl Imports<'_> {
    pub(super) async fn instance(&self, engine: &Engine, code: &Path) -> Result<Instance> {
        // SAFETY: a process of this user compiled it, put it where nobody else can write, and has given a
        // copy that nobody can change.
        let component = unsafe { Component::deserialize_file(engine, code)? };
        let said = Said::default();
        let mut store = Store::new(engine, self.host(&said)?);
        store.limiter(|host| &mut host.limits);
        // There is a limit of time for the process.
        store.set_epoch_deadline(u64::MAX);
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        leave_out_requests(&mut linker, &component)?;
        let instance = linker.instantiate_async(&mut store, &component).await?;
        Ok(Instance { store, instance, said })
    }

    fn host(&self, said: &Said) -> Result<Host> {
        let mut context = WasiCtxBuilder::new();
        context.stdout(said.clone()).stderr(said.clone());
        // A socket can be made, as everywhere; no address can be reached with it.
        context.allow_tcp(true).allow_udp(true);
        context.preopened_dir(self.library, interpreter::LIBRARY, FsPerms::ReadOnly)?;
        for (folder, number) in self.folders.iter().zip(0..) {
            let name = interpreter::folder_of_application(number);
            let shown = context.preopened_dir(folder, name, FsPerms::ReadOnly);
            shown.map_err(anyhow::Error::from).with_context(|| folder.display().to_string())?;
        }
        let limits = StoreLimitsBuilder::new().memory_size(MEMORY_BYTES_MAX).build();
        Ok(Host { context: context.build(), table: ResourceTable::new(), limits })
    }
}

pub(super) struct Host {
    context: WasiCtx,
    table: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }
}

/// Anything of `wasi:http` that is the host's.
type Own = Resource<()>;
/// How the application is named.
type Loading<'a> = (&'a str, &'a str, &'a str, &'a [String], &'a [(String, String)]);
/// What is said of it, or why it cannot be imported.
type Loaded = (Result<String, String>,);

pub(super) struct Instance {
    pub store: Store<Host>,
    instance: wasmtime::component::Instance,
    said: Said,
}

impl Instance {
    /// What runs in each request runs as if in some: their application is the adapter's own.
    pub(super) async fn rehearse(&mut self) -> Result<()> {
        self.call::<(), ()>(Some(APPLICATION), "rehearse", ()).await?;
        for _ in 0..REHEARSALS {
            let (request, response) = (Own::new_own(0), Own::new_own(0));
            self.call::<(Own, Own), ()>(Some(HANDLER), "handle", (request, response)).await?;
        }
        Ok(())
    }

    /// Imports the application: what was noted of it, or why it cannot be imported.
    pub(super) async fn load(&mut self, told: &Told) -> Result<Result<String, String>> {
        let Told { path, name, source, folders, variables } = told;
        let loading = (&path[..], &name[..], &source[..], &folders[..], &variables[..]);
        let loaded = self.call::<Loading<'_>, Loaded>(Some(APPLICATION), "load", loading).await;
        Ok(loaded.with_context(|| self.said.text())?.0)
    }

    /// Lets go what the C library keeps of the host.
    pub(super) async fn reset(&mut self) -> Result<()> {
        for name in reset::names() {
            self.call::<(), ()>(None, name, ()).await?;
        }
        Ok(())
    }

    /// Where the objects are that last as long as an instance.
    pub(super) async fn lasting(&mut self) -> Result<Vec<u32>> {
        Ok(self.call::<(), (Vec<u32>,)>(Some(APPLICATION), "lasting", ()).await?.0)
    }

    /// Calls a function that the interpreter exports, in an interface or by itself.
    async fn call<P, R>(&mut self, interface: Option<&str>, name: &str, parameters: P) -> Result<R>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        let function = self.function::<P, R>(interface, name)?;
        Ok(function.call_async(&mut self.store, parameters).await?)
    }

    pub(super) fn function<P, R>(&mut self, interface: Option<&str>, name: &str) -> Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let (store, instance) = (&mut self.store, &self.instance);
        let interface = match interface {
            Some(interface) => {
                Some(instance.get_export_index(&mut *store, None, interface).context("no interface")?)
            }
            None => None,
        };
        let index = instance.get_export_index(&mut *store, interface.as_ref(), name);
        let index = index.with_context(|| format!("the interpreter has no `{name}`"))?;
        Ok(instance.get_typed_func(store, index)?)
    }
}

/// What there is in requests alone ends the import when it is called, but for what a rehearsal needs.
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
                ComponentItem::ComponentFunc(_) => leave_out(&mut left_out, interface, name)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn leave_out(left_out: &mut LinkerInstance<'_, Host>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match (interface, name) {
        (GATEWAY, "request") => left_out.func_wrap(name, |_, ()| Ok((REQUEST,))),
        (GATEWAY, "respond") => left_out.func_new(name, |_, _, _, results| {
            results[0] = Val::Result(Ok(None));
            Ok(())
        }),
        _ => {
            let what = format!("{interface} {name}");
            left_out.func_new(name, move |_, _, _, _| {
                Err(wasmtime::format_err!(
                    "{what} can be called in a request, not while the component is built"
                ))
            })
        }
    }
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
