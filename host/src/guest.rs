//! From the guest's file to a program that is checked, compiled and linked, so
//! that making an instance of it is all that a call has to do.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use wasmparser::{Parser, Payload};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, Module, PoolingAllocationConfig, ResourcesRequired,
};
use wasmtime_wasi_http::{p2, p3};

use crate::compiled::{self, Kept};
use crate::face::{self, CALLBACK, CALLBACK_ASYNC, Face};
use crate::image::{self, Image};
use crate::imports::{files, gateway, timers};
use crate::logging::Log;
use crate::memories::Memories;
use crate::offer::{self, Missing};
use crate::rewrite;
use crate::stacks::Stacks;
use crate::state::{ELEMENT_BYTES, Host, State};

/// Address space for a memory whose bounds need no check: wasm32 cannot reach
/// beyond it.
const RESERVATION_BYTES: u64 = 4 << 30;
/// Half of what a process of this architecture can address.
const ADDRESS_SPACE_BYTES: u64 = 64 << 40;
/// Elements that one table may hold, if the guest does not start with more.
const TABLE_ELEMENTS_MAX: u64 = 100_000;

/// What one worker needs of the guest.
pub struct Program {
    pub(crate) engine: Engine,
    pub(crate) pre: InstancePre<State>,
    pub(crate) handler: Handler,
    pub(crate) callback: Option<Callback>,
    pub(crate) host: Arc<Host>,
    /// It imports `imports::gateway`.
    pub(crate) is_gateway: bool,
    /// Which guest it is made of: of 0 at the start, and one more after each swap.
    pub(crate) generation: u64,
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
        let mut bytes = face::content(file).with_context(|| name.clone())?;
        let mut face = Face::read(&bytes).with_context(|| name.clone())?;
        face.check().with_context(|| name.clone())?;
        let mut image = None;
        if !face.is_small()
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
    pub fn program(&self, generation: u64, host: Arc<Host>) -> Result<Program> {
        let component = self.component().with_context(|| self.name.clone())?;
        link(component, &self.face, generation, host).with_context(|| self.name.clone())
    }

    fn component(&self) -> Result<Component> {
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
        Ok(self.code.compiled.component(&engine)?)
    }
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
        check_size(needs, room.memory_bytes_max)?;
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
        let (compiled, component) = compiled::compile(&engine, bytes, kept, log)
            .map_err(anyhow::Error::from)
            .context("cannot be compiled")?;
        let needs = needs(&component)?;
        Ok(Code { compiled, needs, reservation_bytes })
    }
}

/// What an instance needs.
fn needs(component: &Component) -> Result<ResourcesRequired> {
    component
        .resources_required()
        .ok_or_else(|| anyhow!("imports core modules or instances, which is not supported"))
}

/// An instance can be made within the limit.
pub fn check_size(needs: &ResourcesRequired, memory_bytes_max: usize) -> Result<()> {
    let memory_bytes_min = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
    let table_bytes_min = needs.max_initial_table_size.unwrap_or(0).saturating_mul(ELEMENT_BYTES as u64);
    let bytes_min = memory_bytes_min.saturating_add(table_bytes_min);
    ensure!(
        bytes_min <= memory_bytes_max as u64,
        "starts with {bytes_min} bytes of memory and tables, more than --memory-limit {memory_bytes_max}"
    );
    Ok(())
}

/// A guest whose code is left out, which is compiled in no time and, for the rest, is
/// checked and linked as one that is served.
pub struct Outline {
    component: Component,
    linker: Linker<State>,
}

impl Outline {
    pub fn read(bytes: &[u8], face: &Face) -> Result<Outline> {
        let engine = Engine::new(&config(face, RESERVATION_BYTES))?;
        let component = match has_valid_code(&engine, bytes) {
            true => Component::new(&engine, rewrite::outline(bytes)?),
            false => Err(wasmtime::Error::msg("a function is not valid")),
        };
        // The guest itself is refused before anything of it is compiled, and for the same
        // reason, but tells where in the file that is.
        let component = component
            .or_else(|_| Component::new(&engine, bytes))
            .map_err(anyhow::Error::from)
            .context("cannot be compiled")?;
        let linker = linker(&engine, face.is_concurrent())?;
        Ok(Outline { component, linker })
    }

    pub fn needs(&self) -> Result<ResourcesRequired> {
        needs(&self.component)
    }

    pub fn missing(&self) -> Vec<Missing> {
        offer::missing(&self.linker, &self.component)
    }

    /// All that it imports is there.
    pub fn link_imports(&self) -> Result<()> {
        link_imports(&self.linker, &self.component).map(drop)
    }

    /// Its exports are there, too.
    pub fn link(&self, face: &Face) -> Result<()> {
        handler(&link_imports(&self.linker, &self.component)?, face).map(drop)
    }
}

fn has_valid_code(engine: &Engine, component: &[u8]) -> bool {
    Parser::new(0).parse_all(component).all(|payload| match payload {
        Ok(Payload::ModuleSection { unchecked_range, .. }) => {
            Module::validate(engine, &component[unchecked_range]).is_ok()
        }
        _ => true,
    })
}

fn link(component: Component, face: &Face, generation: u64, host: Arc<Host>) -> Result<Program> {
    let engine = component.engine().clone();
    let linker = linker(&engine, face.is_concurrent())?;
    let pre = link_imports(&linker, &component)?;
    let handler = handler(&pre, face)?;
    let callback = [(CALLBACK, false), (CALLBACK_ASYNC, true)].into_iter().find_map(|(name, is_async)| {
        let interface = component.get_export_index(None, name)?;
        let run = component.get_export_index(Some(&interface), "run")?;
        Some(Callback { run, is_async })
    });
    let is_gateway = face.imports.iter().any(|import| import == gateway::INTERFACE);
    Ok(Program { engine, pre, handler, callback, host, is_gateway, generation })
}

fn link_imports(linker: &Linker<State>, component: &Component) -> Result<InstancePre<State>> {
    linker.instantiate_pre(component).map_err(|error| match offer::refusal(linker, component) {
        Some(refusal) => anyhow!(refusal),
        None => anyhow::Error::from(error).context("cannot be linked"),
    })
}

fn handler(pre: &InstancePre<State>, face: &Face) -> Result<Handler> {
    Ok(if face.is_p3() {
        Handler::P3(p3::bindings::ServiceIndices::new(pre)?)
    } else {
        Handler::P2(p2::bindings::ProxyIndices::new(pre)?)
    })
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
