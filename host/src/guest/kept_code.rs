//! Compiled guests, kept as files, so that the second start is immediate. What is run is
//! a sealed copy in memory, which is mapped: the code of a large guest takes no time until
//! it is used, memory once for all workers, and nobody can change it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wasmparser::{Encoding, Parser};
use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, Instance, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{AsContextMut, Engine, Module, ResourcesRequired};

use super::initial_data;
use super::pieces;
use crate::cache::{self, Cache};
use crate::system::sealed::Sealed;
use crate::telemetry::log::Log;
use crate::terminal::say_while;

const FILES_MAX: usize = 32;
/// The one file that is for all guests.
const FUNCTIONS: &str = "functions";
/// Compiling such a guest takes so long that a person who waits wants to know.
const LARGE_BYTES: usize = 1 << 20;

/// A guest's code, for all engines that compile alike.
pub(crate) struct Code {
    encoding: Encoding,
    content: Sealed,
}

/// Code that an engine has taken over.
pub(crate) enum Loaded {
    Component(Component),
    Module(Module),
}

impl Loaded {
    /// What an instance needs.
    pub(crate) fn needs(&self) -> Result<ResourcesRequired> {
        match self {
            Loaded::Component(component) => component
                .resources_required()
                .context("imports core modules or instances, which is not supported"),
            Loaded::Module(module) => Ok(module.resources_required()),
        }
    }
}

impl Code {
    /// The code as it is for `engine`.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Loaded> {
        // SAFETY: this process compiled it, or one of this user, since the cache gives
        // nothing else; nobody can change it any more; and wasmtime checks that its own
        // version and the engine's settings are the same, and that it is of this kind.
        unsafe {
            Ok(match self.encoding {
                Encoding::Component => {
                    Loaded::Component(Component::deserialize_file(engine, self.content.path())?)
                }
                Encoding::Module => {
                    let file = self.content.file().try_clone()?;
                    Loaded::Module(Module::deserialize_open_file(engine, file)?)
                }
            })
        }
    }
}

/// What a component exports, with the host's resources for those that it imports.
pub(crate) struct Exports<'a> {
    component: &'a Component,
    ty: types::Component,
}

impl<'a> Exports<'a> {
    pub(crate) fn of<T>(component: &'a Component, linker: &Linker<T>) -> wasmtime::Result<Exports<'a>> {
        Ok(Exports { component, ty: linker.substituted_component_type(component)? })
    }

    /// A function that is called with these types. wasmtime itself would tell at the first
    /// call that it has others.
    pub(crate) fn function<P, R>(&self, interface: &str, name: &str) -> Result<Export<P, R>>
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
        Ok(Export { index, types: PhantomData })
    }
}

/// A function that a component exports. Its type was looked at when the component was linked,
/// and is not again for each instance: those of `wasi:http` have many parts.
pub(crate) struct Export<P, R> {
    index: ComponentExportIndex,
    types: PhantomData<fn(P) -> R>,
}

impl<P, R> Export<P, R>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    /// The function of an instance of the component, which was linked as its type was looked at.
    pub(crate) fn of(
        &self,
        store: impl AsContextMut,
        instance: &Instance,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        let function = instance.get_func(store, self.index);
        let function = function.ok_or_else(|| wasmtime::format_err!("an export of another component"))?;
        // SAFETY: an index is that of one component, in which it was found to have these types.
        Ok(unsafe { TypedFunc::new_unchecked(function) })
    }
}

/// The folder of compiled guests.
pub(crate) struct Kept {
    cache: Cache,
    folder: PathBuf,
}

impl Kept {
    /// Opens the folder. Without it the server works, but starts slowly: so one that
    /// cannot be used is only a line in the log.
    pub(crate) fn open(folder: &Path, log: &Log) -> Option<Kept> {
        match Cache::open(folder, FILES_MAX) {
            Ok(cache) => Some(Kept { cache, folder: folder.to_owned() }),
            Err(error) => {
                cannot_be_used(folder, &error, log);
                None
            }
        }
    }

    /// Functions that were compiled before.
    pub(crate) fn functions(&self, log: &Log) -> Option<Sealed> {
        self.find(FUNCTIONS, log).or_else(|| Sealed::new(FUNCTIONS, &[]).ok())
    }

    pub(crate) fn keep_functions(&self, functions: &Sealed, log: &Log) {
        self.keep(FUNCTIONS, functions, log);
    }

    fn find(&self, name: &str, log: &Log) -> Option<Sealed> {
        self.cache.find_sealed(name).unwrap_or_else(|unfit| {
            log.server(format_args!("--cache: {unfit}; it is compiled anew"));
            None
        })
    }

    fn keep(&self, name: &str, code: &Sealed, log: &Log) {
        if let Err(error) = self.cache.keep_sealed(name, code) {
            cannot_be_used(&self.folder, &error, log);
        }
    }
}

/// Functions that were compiled before, in a folder of compiled guests.
pub(crate) fn functions_in(folder: &Path) -> Option<Sealed> {
    Cache::open(folder, FILES_MAX).ok()?.find_sealed(FUNCTIONS).ok()?
}

/// Keeps functions for the next guest there. Where they cannot be kept, they are compiled once more.
pub(crate) fn keep_functions_in(folder: &Path, functions: &Sealed) {
    let _ = Cache::open(folder, FILES_MAX).and_then(|cache| cache.keep_sealed(FUNCTIONS, functions));
}

fn cannot_be_used(folder: &Path, error: &io::Error, log: &Log) {
    log.server(format_args!(
        "--cache {}: cannot be used, the guest is compiled at every start: {error}{}",
        folder.display(),
        cache::ANOTHER
    ));
}

/// The code of `guest`, of which `sum` is the sum: what is kept, or what `compile` makes of
/// it under the name of the code.
pub(crate) fn load(
    engine: &Engine,
    guest: &[u8],
    sum: blake3::Hash,
    kept: Option<&Kept>,
    log: &Log,
    compile: impl Fn(&str) -> Result<Sealed>,
) -> Result<(Code, Loaded)> {
    let name = name(engine, sum);
    let encoding = if Parser::is_core_wasm(guest) { Encoding::Module } else { Encoding::Component };
    if let Some(content) = kept.and_then(|kept| kept.find(&name, log)) {
        // One that does not fit this program is made anew.
        let code = Code { encoding, content };
        if let Ok(loaded) = code.load(engine) {
            return Ok((code, loaded));
        }
    }
    let content = match guest.len() {
        0..LARGE_BYTES => compile(&name)?,
        _ => say_while("Compiling the guest, some seconds", || compile(&name))?,
    };
    if let Some(kept) = kept {
        kept.keep(&name, &content, log);
    }
    let code = Code { encoding, content };
    let loaded = code.load(engine)?;
    Ok((code, loaded))
}

/// A file's name is made of everything that its content depends on.
fn name(engine: &Engine, sum: blake3::Hash) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    (pieces::VERSION, initial_data::VERSION).hash(&mut settings);
    format!("{}-{:016x}.cwasm", sum, settings.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_damaged_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(None, Default::default()).unwrap();
        let kept = Kept::open(folder.path(), &log);
        let engine = Engine::default();
        let guest = wat::parse_str("(component (type (list u8)))").unwrap();
        let sum = blake3::hash(&guest);
        let compile = |name: &str| Ok(Sealed::new(name, &engine.precompile_component(&guest)?)?);
        let compiled = || load(&engine, &guest, sum, kept.as_ref(), &log, compile).unwrap().0;
        compiled();
        let path = folder.path().join(name(&engine, sum));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        compiled();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
