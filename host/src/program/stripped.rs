//! A guest whose code is left out: it is compiled in no time and, for the rest, checked
//! and linked as one that is served.

use anyhow::{Context, Result};
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, ResourcesRequired};

use super::engine;
use super::link::{self, Entry};
use crate::guest::compiled::Loaded;
use crate::guest::missing::{self, Missing};
use crate::guest::rewrite;
use crate::guest::summary::Summary;

pub struct Outline<'a> {
    code: Loaded,
    summary: &'a Summary,
}

impl<'a> Outline<'a> {
    pub fn read(bytes: &[u8], summary: &'a Summary) -> Result<Outline<'a>> {
        let engine = engine::engine_for_checks(summary)?;
        let code = match has_valid_code(&engine, bytes) {
            true => load(&engine, &rewrite::outline(bytes)?),
            false => Err(wasmtime::Error::msg("a function is not valid")),
        };
        // The guest itself is refused before anything of it is compiled, and for the same
        // reason, but tells where in the file that is.
        let code = code
            .or_else(|_| load(&engine, bytes))
            .map_err(anyhow::Error::from)
            .context("cannot be compiled")?;
        Ok(Outline { code, summary })
    }

    pub fn needs(&self) -> Result<ResourcesRequired> {
        self.code.needs()
    }

    pub fn missing(&self) -> Result<Vec<Missing>> {
        Ok(match &self.code {
            Loaded::Component(component) => {
                let linker = link::linker(component.engine(), self.summary.is_concurrent())?;
                missing::missing(&linker, component)
            }
            Loaded::Module(module) => {
                missing::missing_of_module(&link::module_linker(module.engine())?, module)
            }
        })
    }

    /// All that it imports is there, of a component that cannot be called.
    pub fn link_imports(&self) -> Result<()> {
        match &self.code {
            Loaded::Component(component) => {
                let linker = link::linker(component.engine(), self.summary.is_concurrent())?;
                link::link_imports(&linker, component).map(drop)
            }
            Loaded::Module(_) => Ok(()),
        }
    }

    /// All that it imports and exports is there.
    pub fn link(&self) -> Result<()> {
        Entry::link(&self.code, self.summary).map(drop)
    }
}

fn load(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Loaded> {
    Ok(match Parser::is_core_wasm(bytes) {
        true => Loaded::Module(Module::new(engine, bytes)?),
        false => Loaded::Component(Component::new(engine, bytes)?),
    })
}

fn has_valid_code(engine: &Engine, guest: &[u8]) -> bool {
    if Parser::is_core_wasm(guest) {
        return Module::validate(engine, guest).is_ok();
    }
    Parser::new(0).parse_all(guest).all(|payload| match payload {
        Ok(Payload::ModuleSection { unchecked_range, .. }) => {
            guest.get(unchecked_range).is_some_and(|module| Module::validate(engine, module).is_ok())
        }
        _ => true,
    })
}
