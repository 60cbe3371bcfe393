//! From the guest's file to a program that is checked, compiled and linked, so
//! that making an instance of it is all that a call has to do.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use wasmparser::{DataKind, Parser, Payload};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, Module, PoolingAllocationConfig, ResourcesRequired,
};
use wasmtime_wasi_http::{p2, p3};

use crate::cgi::Command;
use crate::compiled::{self, Kept, Kind, Loaded};
use crate::image::{self, Image};
use crate::imports::{files, gateway, timers};
use crate::logging::Log;
use crate::memories::Memories;
use crate::stacks::Stacks;
use crate::state::{ELEMENT_BYTES, Host, State};

/// The export that runs deferred calls, for WASI 0.2 and for 0.3.
const CALLBACK: &str = "wasm-serve:deferred/callback@0.1.0";
const CALLBACK_ASYNC: &str = "wasm-serve:deferred/callback-async@0.1.0";

/// Address space for a memory whose bounds need no check: wasm32 cannot reach
/// beyond it.
const RESERVATION_BYTES: u64 = 4 << 30;
/// Half of what a process of this architecture can address.
const ADDRESS_SPACE_BYTES: u64 = 64 << 40;
/// Elements that one table may hold, if the guest does not start with more.
const TABLE_ELEMENTS_MAX: u64 = 100_000;
/// Initial data of a guest that wasmtime copies into each instance. More of it is taken
/// out of the guest, if possible.
const DATA_BYTES_COPIED_MAX: u64 = 128 << 10;

/// What one worker needs of the guest.
pub struct Program {
    pub(crate) engine: Engine,
    pub(crate) entry: Entry,
    pub(crate) host: Arc<Host>,
}

/// How a guest is called.
pub(crate) enum Entry {
    Proxy(Arc<Proxy>),
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
pub(crate) struct Callback {
    pub(crate) run: ComponentExportIndex,
    pub(crate) is_async: bool,
}

/// How many instances there are at once, and how large they may be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub cores: u32,
    /// Programs that are made of one guest. Each has room for all cores.
    pub programs: u32,
    pub memory_bytes_max: usize,
}

/// A guest that is checked and compiled.
pub struct Guest {
    face: Face,
    /// Initial data that is no longer in the code.
    image: Option<Arc<Image>>,
    code: Code,
    room: Room,
    /// The option that named it, for errors.
    name: String,
}

impl Guest {
    /// Reads, checks and compiles the guest in `file`, which the option `name` named.
    /// Compiled code is kept in the folder `cache`. The error says what to change.
    pub fn load(name: String, file: &Path, cache: Option<&Path>, room: Room, log: &Log) -> Result<Guest> {
        let mut bytes = std::fs::read(file).with_context(|| format!("{name}: cannot be read"))?;
        let mut face = Face::read(&bytes).with_context(|| name.clone())?;
        face.check().with_context(|| name.clone())?;
        let mut image = None;
        if face.data_bytes > DATA_BYTES_COPIED_MAX
            && let Some((left, taken)) = image::take(&bytes).with_context(|| name.clone())?
        {
            (bytes, image, face.data_bytes) = (left, Some(Arc::new(taken)), 0);
        }
        let kept = cache.and_then(|folder| Kept::open(folder, log));
        let code = Code::compile(&bytes, &face, kept.as_ref(), room, log).with_context(|| name.clone())?;
        Ok(Guest { face, image, code, room, name })
    }

    /// Links it. A program has an engine, memories and stacks of its own, so that
    /// workers that have a program each meet nowhere.
    pub fn program(&self, host: Arc<Host>) -> Result<Program> {
        let made = || -> Result<Program> {
            let (engine, code) = self.loaded()?;
            let entry = match code {
                Loaded::Component(component) => link(&component, &self.face)?,
                Loaded::Module(module) => Entry::Command(link_module(&module)?),
            };
            Ok(Program { engine, entry, host })
        };
        made().with_context(|| self.name.clone())
    }

    fn loaded(&self) -> Result<(Engine, Loaded)> {
        let mut config = config(&self.face, self.code.reservation_bytes);
        // A guest for 0.3 may have a stack for each of its tasks.
        let stacks_max = self.room.cores.saturating_mul(if self.face.is_concurrent() { 4 } else { 1 });
        if self.face.is_small() {
            // The cores' instances are spread over the programs, as a rule evenly.
            let instances = self.room.cores.div_ceil(self.room.programs) + 8;
            let kept_max = instances.saturating_mul(self.code.needs.num_memories.max(1));
            config.with_host_memory(Arc::new(Memories::new(self.image.clone(), kept_max as usize)));
            config.with_host_stack(Arc::new(Stacks::new(stacks_max)));
        } else {
            let pool = pool(self.room, &self.code.needs, stacks_max);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        let engine = Engine::new(&config).map_err(anyhow::Error::from).with_context(|| {
            let Room { cores, memory_bytes_max, .. } = self.room;
            format!("no room for --cores {cores} with --memory-limit {memory_bytes_max}, once a thread")
        })?;
        let code = self.code.compiled.load(&engine)?;
        Ok((engine, code))
    }
}

/// What is known of a guest before it is compiled: the names of its imports and
/// exports, and how much data comes with it.
struct Face {
    kind: Kind,
    /// Of a core module, the modules that it imports from.
    imports: Vec<String>,
    exports: Vec<String>,
    /// What wasmtime writes into each instance's memories.
    data_bytes: u64,
}

impl Face {
    fn read(bytes: &[u8]) -> Result<Face> {
        if !bytes.starts_with(b"\0asm") {
            if bytes.trim_ascii_start().starts_with(b"(") {
                bail!(
                    "is WebAssembly in text form; make the binary form of it, for example with `wasm-tools parse`"
                );
            }
            bail!("is not WebAssembly");
        }
        let kind = if Parser::is_core_wasm(bytes) { Kind::Module } else { Kind::Component };
        let mut face = Face { kind, imports: Vec::new(), exports: Vec::new(), data_bytes: 0 };
        let mut nested = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.context("is not valid WebAssembly")? {
                Payload::ImportSection(imports) if nested == 0 => {
                    for import in imports.into_imports() {
                        face.imports.push(import?.module.to_owned());
                    }
                }
                Payload::ExportSection(exports) if nested == 0 => {
                    for export in exports {
                        face.exports.push(export?.name.to_owned());
                    }
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => nested += 1,
                Payload::End(_) if nested > 0 => nested -= 1,
                Payload::ComponentImportSection(imports) if nested == 0 => {
                    for import in imports {
                        face.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if nested == 0 => {
                    for export in exports {
                        face.exports.push(export?.name.name.to_owned());
                    }
                }
                Payload::DataSection(segments) => {
                    for segment in segments {
                        let segment = segment?;
                        if matches!(segment.kind, DataKind::Active { .. }) {
                            face.data_bytes += segment.data.len() as u64;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(face)
    }

    fn check(&self) -> Result<()> {
        if self.kind == Kind::Module {
            ensure!(
                self.has_export("_start"),
                "is a core module without `_start`, which is where a program begins; build a command, not a library, or make a component of it, for example with `wasm-tools component new`"
            );
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
        let callbacks = self.has_export(CALLBACK) as u32 + self.has_export(CALLBACK_ASYNC) as u32;
        ensure!(callbacks < 2, "exports both `{CALLBACK}` and `{CALLBACK_ASYNC}`; export one of them");
        let schedules = self.imports.iter().any(|import| import == timers::INTERFACE);
        // A program is run again for a deferred call.
        ensure!(
            callbacks == 1 || handlers == 0 || !schedules,
            "imports `{}`, but exports no callback to run; export `{CALLBACK}` or `{CALLBACK_ASYNC}`",
            timers::INTERFACE
        );
        Ok(())
    }

    fn is_p2(&self) -> bool {
        self.exports.iter().any(|export| export.starts_with("wasi:http/incoming-handler@0.2."))
    }

    fn is_p3(&self) -> bool {
        self.exports.iter().any(|export| export.starts_with("wasi:http/handler@0.3."))
    }

    /// The version of `wasi:cli/run` that makes it a program; a handler goes before.
    fn command(&self) -> Option<CommandVersion> {
        if self.is_p2() || self.is_p3() {
            return None;
        }
        let exports = |start: &str| self.exports.iter().any(|export| export.starts_with(start));
        if exports("wasi:cli/run@0.2.") {
            return Some(CommandVersion::P2);
        }
        exports("wasi:cli/run@0.3.").then_some(CommandVersion::P3)
    }

    fn has_export(&self, name: &str) -> bool {
        self.exports.iter().any(|export| export == name)
    }

    /// wasmtime has little data to copy: instances take their memories from `memories`.
    /// Otherwise its own pool maps the data copy-on-write.
    fn is_small(&self) -> bool {
        self.data_bytes <= DATA_BYTES_COPIED_MAX
    }

    /// The guest needs tasks that run concurrently. An engine without them is
    /// faster, and the choice stands before anything is compiled.
    fn is_concurrent(&self) -> bool {
        let mut names = self.imports.iter().chain(&self.exports);
        names.any(|name| name.contains("@0.3.") || name == CALLBACK_ASYNC)
    }
}

enum CommandVersion {
    P2,
    P3,
}

/// Compiled code, for engines that differ by nothing but where their instances
/// take memory from: what an instance needs is known only after compiling, and
/// the pool belongs to the engine.
struct Code {
    compiled: compiled::Code,
    needs: ResourcesRequired,
    /// Bytes of address space for each memory.
    reservation_bytes: u64,
}

impl Code {
    fn compile(bytes: &[u8], face: &Face, kept: Option<&Kept>, room: Room, log: &Log) -> Result<Code> {
        let code = Code::compile_for(RESERVATION_BYTES, bytes, face, kept, log)?;
        let needs = &code.needs;
        let memory_bytes_min = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
        let table_bytes_min = needs.max_initial_table_size.unwrap_or(0).saturating_mul(ELEMENT_BYTES as u64);
        let bytes_min = memory_bytes_min.saturating_add(table_bytes_min);
        ensure!(
            bytes_min <= room.memory_bytes_max as u64,
            "starts with {bytes_min} bytes of memory and tables, more than --memory-limit {}",
            room.memory_bytes_max
        );
        let memories =
            u64::from(needs.num_memories.max(1)) * u64::from(room.cores) * u64::from(room.programs);
        if memories.saturating_mul(RESERVATION_BYTES) <= ADDRESS_SPACE_BYTES {
            return Ok(code);
        }
        // Compiled again, with explicit bounds checks.
        let reservation = (room.memory_bytes_max as u64).next_multiple_of(64 << 10);
        ensure!(
            memories.saturating_mul(reservation) <= ADDRESS_SPACE_BYTES,
            "--cores {} with --memory-limit {} on {} threads need more address space than there is",
            room.cores,
            room.memory_bytes_max,
            room.programs
        );
        Code::compile_for(reservation, bytes, face, kept, log)
    }

    fn compile_for(
        reservation_bytes: u64,
        bytes: &[u8],
        face: &Face,
        kept: Option<&Kept>,
        log: &Log,
    ) -> Result<Code> {
        let engine = Engine::new(&config(face, reservation_bytes))?;
        let (compiled, code) = compiled::compile(&engine, face.kind, bytes, kept, log)
            .map_err(anyhow::Error::from)
            .context("cannot be compiled")?;
        let needs = code
            .resources_required()
            .ok_or_else(|| anyhow!("imports core modules or instances, which is not supported"))?;
        Ok(Code { compiled, needs, reservation_bytes })
    }
}

fn link(component: &Component, face: &Face) -> Result<Entry> {
    let linker = linker(component.engine(), face.is_concurrent())?;
    let pre = linker.instantiate_pre(component).map_err(anyhow::Error::from).with_context(|| {
        format!("needs something that this server does not offer; it offers WASI 0.2 and 0.3 with wasi:http, `{}` and `{}`", timers::INTERFACE, gateway::INTERFACE)
    })?;
    let handler = match face.command() {
        Some(CommandVersion::P2) => {
            let indices = wasmtime_wasi::p2::bindings::CommandIndices::new(&pre)?;
            return Ok(Entry::Command(Command::P2(pre, indices)));
        }
        Some(CommandVersion::P3) => {
            let indices = wasmtime_wasi::p3::bindings::CommandIndices::new(&pre)?;
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
    let is_gateway = face.imports.iter().any(|import| import == gateway::INTERFACE);
    Ok(Entry::Proxy(Arc::new(Proxy { pre, handler, callback, is_gateway })))
}

fn link_module(module: &Module) -> Result<Command> {
    let mut linker = wasmtime::Linker::new(module.engine());
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, State::preview1)?;
    timers::add_to_module_linker(&mut linker)?;
    let pre = linker.instantiate_pre(module).map_err(anyhow::Error::from).with_context(|| {
        format!("needs something that this server does not offer; it offers a core module WASI 0.1 (`wasi_snapshot_preview1`) and `{}`", timers::MODULE)
    })?;
    Ok(Command::Module(pre))
}

fn config(face: &Face, reservation_bytes: u64) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.wasm_component_model_async(face.is_concurrent());
    config.concurrency_support(face.is_concurrent());
    config.memory_reservation(reservation_bytes).gc_heap_reservation(reservation_bytes);
    config.memory_init_cow(!face.is_small());
    config
}

fn pool(room: Room, needs: &ResourcesRequired, stacks_max: u32) -> PoolingAllocationConfig {
    let of_all = |of_one: u32| of_one.saturating_mul(room.cores);
    let elements_max = needs.max_initial_table_size.unwrap_or(0).max(TABLE_ELEMENTS_MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(room.cores)
        .total_core_instances(of_all(1000))
        .max_core_instances_per_component(1000)
        .max_component_instance_size(16 << 20)
        .max_core_instance_size(16 << 20)
        .total_memories(of_all(needs.num_memories))
        .max_memories_per_component(needs.num_memories)
        .max_memories_per_module(needs.num_memories)
        .max_memory_size(room.memory_bytes_max)
        .total_tables(of_all(needs.num_tables))
        .max_tables_per_component(needs.num_tables)
        .max_tables_per_module(needs.num_tables)
        .table_elements(elements_max as usize)
        .total_stacks(stacks_max)
        .total_gc_heaps(room.cores)
        // As `memories` does it, but for 32 ranges of pages at most.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

fn linker(engine: &Engine, is_concurrent: bool) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    if is_concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        p3::add_to_linker(&mut linker)?;
    }
    files::add_to_linker(&mut linker)?;
    gateway::add_to_linker(&mut linker)?;
    timers::add_to_linker(&mut linker)?;
    Ok(linker)
}
