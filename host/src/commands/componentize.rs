//! `wasm-serve componentize`: the last step from a core module, as compilers of C, Go or
//! AssemblyScript make it, to a component that can be served.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use include_dir::Dir;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap, UnresolvedPackageGroup, WorldId};

use super::build::write;
use crate::config;
use crate::contract::{CALLBACK, TIMERS, WIT};
use crate::guest::file;
use crate::guest::summary::{Kind, Summary};

/// The version of WASI that our WIT has.
const WASI: &str = "0.2.12";

pub(crate) fn run(options: &config::Componentize) -> Result<ExitCode> {
    let named = || options.module.display().to_string();
    let module = file::content(&options.module).with_context(named)?;
    write(&options.output, &component(module).with_context(named)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a component of a core module. Its imports and exports are named as the
/// canonical ABI names them, such as `[method]incoming-request.path-with-query` of
/// `wasi:http/types@0.2.12`; texts are UTF-8. What it imports of
/// `wasi_snapshot_preview1`, as libraries of C do, becomes WASI 0.2.
pub(crate) fn component(mut module: Vec<u8>) -> Result<Vec<u8>> {
    let summary = Summary::read(&module)?;
    match summary.kind {
        Kind::Component | Kind::WitPackage => bail!("is a component already"),
        // It brings its world, as generated bindings do.
        Kind::UnfinishedComponent => {}
        _ => {
            let (wit, world) = world(&summary)?;
            embed_component_metadata(&mut module, &wit, world, StringEncoding::UTF8)?;
        }
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module)?;
    let adapted = format!("{WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME} ");
    if summary.imports.iter().any(|import| import.starts_with(&adapted)) {
        encoder =
            encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    }
    encoder.encode().context("no component can be made of it")
}

/// All that WASI 0.2 and this server offer to guests, of which a component keeps what it
/// uses, and the exports that the module has.
fn world(summary: &Summary) -> Result<(Resolve, WorldId)> {
    let exports =
        |interface: &str| summary.exports.iter().any(|export| export.starts_with(&format!("{interface}#")));
    let handler = format!("wasi:http/incoming-handler@{WASI}");
    ensure!(exports(&handler), "exports no function `{handler}#handle`, which answers requests");
    let callback = if exports(CALLBACK) { format!("export {CALLBACK};") } else { String::new() };
    let mut wit = Resolve::default();
    let dependencies = WIT.get_dir("deps").context("our WIT has a folder deps")?;
    wit.push_groups(package(&WIT)?, dependencies.dirs().map(package).collect::<Result<_>>()?)?;
    let guest = format!(
        "package wasm-serve:guest;
         world guest {{
             include wasi:cli/imports@{WASI};
             include wasi:http/proxy@{WASI};
             import {TIMERS};
             {callback}
         }}"
    );
    let guest = wit.push_source("guest.wit", &guest)?;
    let world = wit.select_world(&[guest], Some("guest"))?;
    Ok((wit, world))
}

/// The files of one folder are one package.
fn package(folder: &Dir<'_>) -> Result<UnresolvedPackageGroup> {
    let mut files = SourceMap::default();
    for file in folder.files() {
        files.push_str(&file.path().display().to_string(), file.contents_utf8().context("WIT is text")?);
    }
    files.parse().map_err(|(_, error)| error.into())
}
