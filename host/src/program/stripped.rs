//! A guest whose code is left out: it is compiled in no time and, for the rest, checked
//! and linked as one that is served.

use anyhow::{Context, Result};
use wasm_encoder::Encode;
use wasmparser::{BinaryReaderError, Parser, Payload};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, ResourcesRequired};

use super::engine;
use super::link::{self, Entry};
use crate::guest::initial_data;
use crate::guest::kept_code::Loaded;
use crate::guest::missing::{self, Missing};
use crate::guest::rewrite;
use crate::guest::summary::Summary;

/// A function body without locals that traps, with its size; it is valid for every type.
const TRAP: [u8; 4] = [3, 0, 0x00, 0x0b];

pub(crate) struct Outline<'a> {
    code: Loaded,
    summary: &'a Summary,
}

impl<'a> Outline<'a> {
    pub(crate) fn read(bytes: &[u8], summary: &'a Summary) -> Result<Outline<'a>> {
        let engine = engine::engine_for_checks(summary)?;
        let code = match has_valid_code(&engine, bytes) {
            true => load(&engine, &outline(bytes)?),
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

    pub(crate) fn needs(&self) -> Result<ResourcesRequired> {
        self.code.needs()
    }

    pub(crate) fn missing(&self) -> Result<Vec<Missing>> {
        Ok(match &self.code {
            Loaded::Component(component) => {
                let linker = link::linker(component, self.summary.is_concurrent())?;
                missing::missing(&linker, component)
            }
            Loaded::Module(module) => {
                missing::missing_of_module(&link::module_linker(module.engine())?, module)
            }
        })
    }

    /// All that it imports is there, of a component that cannot be called.
    pub(crate) fn link_imports(&self) -> Result<()> {
        match &self.code {
            Loaded::Component(component) => {
                let linker = link::linker(component, self.summary.is_concurrent())?;
                link::link_imports(&linker, component).map(drop)
            }
            Loaded::Module(_) => Ok(()),
        }
    }

    /// All that it imports and exports is there.
    pub(crate) fn link(&self) -> Result<()> {
        Entry::link(&self.code, self.summary).map(drop)
    }
}

/// The same component on the outside, and in its types, memories and tables; but each
/// function only traps, and there is no initial data. It compiles in no time.
pub(crate) fn outline(component: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    rewrite::sections(component, |payload, content| {
        Ok(match payload {
            Payload::CustomSection(_) => None,
            Payload::DataSection(data) => Some(initial_data::emptied(data.clone())?.into()),
            Payload::CodeSectionStart { count, .. } => Some(traps(*count).into()),
            _ => Some(content.into()),
        })
    })
}

/// The content of a code section with so many functions.
fn traps(count: u32) -> Vec<u8> {
    let mut content = Vec::new();
    count.encode(&mut content);
    content.extend((0..count).flat_map(|_| TRAP));
    content
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
