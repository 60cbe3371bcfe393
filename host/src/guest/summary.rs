//! What is known of a guest before it is compiled, and whether that will do.

use anyhow::{Result, bail, ensure};
use wasmparser::{
    BinaryReaderError, CanonicalFunction, CanonicalOption, ComponentDefinedType, ComponentExternalKind,
    ComponentType, ComponentTypeDeclaration, DataKind, Encoding, InstanceTypeDeclaration, Parser, Payload,
};

use super::file;
use crate::contract::{CALL_LATER, CALLBACK, CALLBACK_ASYNC, GATEWAY, TIMERS, TIMERS_MODULE};

/// Initial data of a guest that wasmtime copies into each instance. More of it is taken
/// out of the guest, if possible.
const DATA_BYTES_COPIED_MAX: u64 = 128 << 10;

/// What kind of WebAssembly a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Component,
    /// A component that only describes interfaces and worlds.
    WitPackage,
    /// A core module that is a program (a WASI 0.1 command).
    Command,
    /// A core module with the description of a component that is to be made of it.
    UnfinishedComponent,
    /// A core module with imports that JavaScript has to provide.
    ForJavaScript,
    /// Any other core module.
    Module,
}

/// The version of `wasi:cli/run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandVersion {
    P2,
    P3,
}

/// What is known of a guest before it is compiled: the names of its imports and
/// exports, and how much data comes with it.
#[derive(Debug)]
pub(crate) struct Summary {
    pub kind: Kind,
    /// Of a core module, `MODULE NAME`.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// What wasmtime writes into each instance's memories.
    pub data_bytes: u64,
    /// A component, or one in it, has types or built-in functions that only tasks which run
    /// concurrently need, whatever its interfaces are.
    is_asynchronous: bool,
}

/// What is found in a file, section by section.
#[derive(Default)]
struct Found {
    encoding: Option<Encoding>,
    imports: Vec<String>,
    exports: Vec<String>,
    data_bytes: u64,
    is_asynchronous: bool,
    /// It has modules or components in it.
    has_code: bool,
    exports_only_types: bool,
    describes_component: bool,
}

impl Found {
    /// A section of the component or module itself, not of one in it.
    fn outermost(&mut self, payload: Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::Version { encoding, .. } => self.encoding = Some(encoding),
            Payload::ComponentImportSection(section) => {
                for import in section {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.exports_only_types &= export.kind == ComponentExternalKind::Type;
                    self.exports.push(export.name.name.to_owned());
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    self.imports.push(format!("{} {}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.exports.push(export?.name.to_owned());
                }
            }
            Payload::CustomSection(section) => {
                self.describes_component |= section.name().starts_with("component-type");
            }
            _ => {}
        }
        Ok(())
    }

    fn kind(&self) -> Kind {
        let imports_from = |modules: &[&str]| {
            let mut from = self.imports.iter().map(|import| import.split(' ').next().unwrap_or_default());
            from.any(|module| modules.contains(&module))
        };
        let is_interfaces = self.exports_only_types && !self.has_code && !self.exports.is_empty();
        match self.encoding {
            Some(Encoding::Module) if self.describes_component => Kind::UnfinishedComponent,
            Some(Encoding::Module) if imports_from(&["wbg", "__wbindgen_placeholder__", "gojs", "go"]) => {
                Kind::ForJavaScript
            }
            Some(Encoding::Module) if self.exports.iter().any(|export| export == "_start") => Kind::Command,
            Some(Encoding::Module) => Kind::Module,
            _ if is_interfaces => Kind::WitPackage,
            _ => Kind::Component,
        }
    }
}

impl Summary {
    pub(crate) fn read(bytes: &[u8]) -> Result<Summary> {
        file::check(bytes)?;
        let mut found = Found { exports_only_types: true, ..Found::default() };
        let mut nested = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| file::invalid(bytes, &error))?;
            found.is_asynchronous |= is_asynchronous(&payload)?;
            match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                    found.has_code = true;
                    nested += 1;
                }
                Payload::End(_) if nested > 0 => nested -= 1,
                Payload::DataSection(segments) => {
                    for segment in segments {
                        let segment = segment?;
                        if matches!(segment.kind, DataKind::Active { .. }) {
                            found.data_bytes += segment.data.len() as u64;
                        }
                    }
                }
                payload if nested == 0 => found.outermost(payload)?,
                _ => {}
            }
        }
        let kind = found.kind();
        let Found { imports, exports, data_bytes, is_asynchronous, .. } = found;
        Ok(Summary { kind, imports, exports, data_bytes, is_asynchronous })
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.check_kind()?;
        if self.kind == Kind::Command {
            return Ok(());
        }
        let handlers = self.is_p2() as u32 + self.is_p3() as u32;
        if handlers == 0 && self.command().is_none() {
            let exports =
                if self.exports.is_empty() { "nothing".to_owned() } else { self.exports.join(", ") };
            bail!(
                "exports neither `wasi:http/incoming-handler` (0.2) nor `wasi:http/handler` (0.3) nor `wasi:cli/run`, but {exports}; build it for the world `wasi:http/proxy`, `wasi:http/service` or `wasi:cli/command`"
            );
        }
        ensure!(
            handlers < 2,
            "exports both `wasi:http/incoming-handler` and `wasi:http/handler`; export one of them"
        );
        let callbacks = self.exports_a(CALLBACK) as u32 + self.exports_a(CALLBACK_ASYNC) as u32;
        ensure!(callbacks < 2, "exports both `{CALLBACK}` and `{CALLBACK_ASYNC}`; export one of them");
        ensure!(
            callbacks == 1 || handlers == 0 || !self.schedules(),
            "imports `{}`, but exports no callback to run; export `{CALLBACK}` or `{CALLBACK_ASYNC}`",
            TIMERS
        );
        Ok(())
    }

    fn check_kind(&self) -> Result<()> {
        match self.kind {
            Kind::Component | Kind::Command => Ok(()),
            Kind::WitPackage => bail!(
                "is a WIT package: it describes interfaces and has no code; build a program for one of its worlds"
            ),
            Kind::UnfinishedComponent => bail!(
                "is a core module, not yet a component, but says of which interfaces one is to be made; run `wasm-serve componentize FILE --output OUT`"
            ),
            Kind::ForJavaScript => bail!(
                "is a core module that JavaScript has to load; build it for WASI, such as for Rust's target `wasm32-wasip2`, or with `GOOS=wasip1`"
            ),
            Kind::Module => bail!(
                "is a core module without `_start`, which is where a program begins; build a command, not a library, or make a component of it with `wasm-serve componentize`"
            ),
        }
    }

    /// The export that answers requests.
    pub(crate) fn handler(&self) -> Option<&str> {
        self.exports.iter().map(String::as_str).find(|export| is_p2(export) || is_p3(export))
    }

    /// The export that runs deferred calls.
    pub(crate) fn callback(&self) -> Option<&str> {
        let is_callback = |name: &&str| is_version_of(name, CALLBACK) || is_async_callback(name);
        self.exports.iter().map(String::as_str).find(is_callback)
    }

    /// It can be given deferred calls. A program is run again for them, which one that
    /// schedules none does not expect.
    pub(crate) fn runs_deferred_calls(&self) -> bool {
        if self.is_program() { self.schedules() } else { self.callback().is_some() }
    }

    /// It wants to be told that its client has left, as gateways' interfaces have it.
    pub(crate) fn closes(&self) -> bool {
        self.imports.iter().any(|import| import == GATEWAY)
    }

    /// It is served by CGI.
    pub(crate) fn is_program(&self) -> bool {
        self.kind == Kind::Command || self.command().is_some()
    }

    fn schedules(&self) -> bool {
        let call_later = format!("{} {}", TIMERS_MODULE, CALL_LATER);
        self.imports_a(TIMERS) || self.imports.contains(&call_later)
    }

    /// The interface, in a version that is linked to ours.
    pub(crate) fn imports_a(&self, interface: &str) -> bool {
        self.imports.iter().any(|import| is_version_of(import, interface))
    }

    fn exports_a(&self, interface: &str) -> bool {
        self.exports.iter().any(|export| is_version_of(export, interface))
    }

    /// The export `wasi:cli/run` that makes a component a program, and its version; a
    /// handler goes before.
    pub(crate) fn command(&self) -> Option<(CommandVersion, &str)> {
        if self.handler().is_some() {
            return None;
        }
        [(CommandVersion::P2, "wasi:cli/run@0.2."), (CommandVersion::P3, "wasi:cli/run@0.3.")]
            .into_iter()
            .find_map(|(version, start)| {
                let export = self.exports.iter().find(|export| export.starts_with(start))?;
                Some((version, export.as_str()))
            })
    }

    fn is_p2(&self) -> bool {
        self.exports.iter().any(|export| is_p2(export))
    }

    pub(crate) fn is_p3(&self) -> bool {
        self.exports.iter().any(|export| is_p3(export))
    }

    /// wasmtime has little data to copy: instances take their memories from `memories`.
    /// Otherwise its own pool maps the data copy-on-write.
    pub(crate) fn is_small(&self) -> bool {
        self.data_bytes <= DATA_BYTES_COPIED_MAX
    }

    /// The guest needs tasks that run concurrently. An engine without them is
    /// faster, and the choice stands before anything is compiled.
    pub(crate) fn is_concurrent(&self) -> bool {
        let mut names = self.imports.iter().chain(&self.exports);
        self.is_asynchronous || names.any(|name| name.contains("@0.3.") || is_async_callback(name))
    }
}

/// Whether a section has something that an engine without concurrent tasks refuses.
fn is_asynchronous(section: &Payload<'_>) -> Result<bool, BinaryReaderError> {
    match section {
        Payload::ComponentCanonicalSection(functions) => functions
            .clone()
            .into_iter()
            .try_fold(false, |found, function| Ok(found | is_built_in(&function?))),
        Payload::ComponentTypeSection(types) => {
            types.clone().into_iter().try_fold(false, |found, ty| Ok(found | is_asynchronous_type(&ty?)))
        }
        _ => Ok(false),
    }
}

/// All but the functions of WASI 0.2's component model are about tasks, streams and futures.
fn is_built_in(function: &CanonicalFunction) -> bool {
    let is_of_tasks =
        |option: &CanonicalOption| matches!(option, CanonicalOption::Async | CanonicalOption::Callback(_));
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.iter().any(is_of_tasks)
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}

fn is_asynchronous_type(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(ty) => {
            matches!(ty, ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_))
        }
        ComponentType::Component(within) => within
            .iter()
            .any(|within| matches!(within, ComponentTypeDeclaration::Type(ty) if is_asynchronous_type(ty))),
        ComponentType::Instance(within) => within
            .iter()
            .any(|within| matches!(within, InstanceTypeDeclaration::Type(ty) if is_asynchronous_type(ty))),
        ComponentType::Resource { .. } => false,
    }
}

pub(crate) fn is_async_callback(export: &str) -> bool {
    is_version_of(export, CALLBACK_ASYNC)
}

/// As wasmtime links names: versions of one interface that differ by their last number,
/// such as 0.1.0 and 0.1.7, are taken for each other.
fn is_version_of(name: &str, interface: &str) -> bool {
    let (same, _) = interface.rsplit_once('.').expect("our interfaces have versions");
    let last = name.strip_prefix(same).and_then(|rest| rest.strip_prefix('.'));
    // After a plus sign is what does not count. After a hyphen is a draft's name.
    let last = last.map(|last| last.split('+').next().unwrap_or_default());
    last.is_some_and(|last| !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_p2(export: &str) -> bool {
    export.starts_with("wasi:http/incoming-handler@0.2.")
}

fn is_p3(export: &str) -> bool {
    export.starts_with("wasi:http/handler@0.3.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_as_wasmtime_does() {
        for (name, is_version) in [
            ("wasm-serve:deferred/callback@0.1.0", true),
            ("wasm-serve:deferred/callback@0.1.27", true),
            ("wasm-serve:deferred/callback@0.1.2+build.7", true),
            ("wasm-serve:deferred/callback@0.2.0", false),
            ("wasm-serve:deferred/callback@0.1.0-draft", false),
            ("wasm-serve:deferred/callback@0.1.", false),
            ("wasm-serve:deferred/callback", false),
            ("wasm-serve:deferred/callback-async@0.1.0", false),
        ] {
            assert_eq!(is_version_of(name, CALLBACK), is_version, "{name}");
        }
    }
}
