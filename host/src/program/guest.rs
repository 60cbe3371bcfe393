//! From the guest's file to a program that is checked, compiled and linked, so
//! that making an instance of it is all that a call has to do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourcesRequired};

use super::link::Entry;
use crate::clock::Nanos;
use crate::guest::Content;
use crate::guest::compiled::{self, Kept};
use crate::guest::compiling::{self, Settings};
use crate::guest::initial_data::{self, Data, InitialData};
use crate::guest::summary::Summary;
use crate::memory::image::Image;
use crate::memory::memories::{GUARD_BYTES, Memories};
use crate::memory::stacks::Stacks;
use crate::sandbox::host::Host;
use crate::sandbox::state::{ELEMENT_BYTES, HOST_BYTES_MIN};
use crate::telemetry::log::Log;

/// Address space for a memory whose bounds need no check: wasm32 cannot reach
/// beyond it.
const RESERVATION_BYTES: u64 = 4 << 30;
/// Half of what a process of this architecture can address.
pub const ADDRESS_SPACE_BYTES: u64 = 64 << 40;
/// Elements that one table may hold, if the guest does not start with more.
const TABLE_ELEMENTS_MAX: u64 = 100_000;

/// What one worker needs of the guest.
pub struct Program {
    pub(crate) engine: Engine,
    pub(crate) entry: Entry,
    pub(crate) host: Arc<Host>,
    /// See `Summary::runs_deferred_calls`.
    pub(crate) runs_deferred_calls: bool,
    /// See `Summary::closes`.
    pub(crate) closes: bool,
    /// Which guest it is made of: of 0 at the start, and one more after each swap.
    pub(crate) generation: u64,
    pub(super) reuse: Reuse,
    /// None if its instances take their memory from wasmtime's pool.
    memories: Option<Memories>,
    size: Size,
}

/// What an instance of a guest takes of the memory of all.
struct Size {
    /// At its beginning.
    initial: u64,
    /// At the end of its calls: a moving average.
    recent: AtomicU64,
}

impl Program {
    /// What room there should be for an instance. One that takes more than a sixteenth of all
    /// gets that when it grows, or not.
    pub(crate) fn bytes_expected(&self) -> u64 {
        let most = self.size.initial.max(self.host.budget.bytes() / 16);
        self.size.recent.load(Ordering::Relaxed).min(most)
    }

    /// Notes what an instance took. Some notes may be lost between threads.
    pub(crate) fn note_bytes(&self, bytes: u64) {
        let recent = self.size.recent.load(Ordering::Relaxed);
        self.size.recent.store(recent - recent / 8 + bytes / 8, Ordering::Relaxed);
    }

    /// Gives memory back to the system that no instance has had since `time`.
    pub(crate) fn trim(&self, time: Nanos) {
        if let Some(memories) = &self.memories {
            memories.trim(time);
        }
    }
}

/// How many instances there are at once, how large they may be, and what compiling the
/// guest may take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub cores: u32,
    /// Programs that are made of one guest. Each has room for all cores.
    pub programs: u32,
    pub memory_bytes_max: usize,
    /// What the process may have of addresses for them.
    pub address_space_bytes: u64,
    pub compiling: compiling::Limits,
    pub reuse: Reuse,
}

/// Which instances serve one call after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reuse {
    /// Calls that an instance serves, 0 for no limit.
    pub calls_max: u32,
    /// One that takes more serves no further call.
    pub bytes_max: u64,
}

/// A guest that is checked and compiled.
pub struct Guest {
    summary: Summary,
    data: InitialData<Arc<Image>>,
    code: Code,
    room: Room,
    /// The option that named it, for errors.
    name: String,
}

impl Guest {
    /// Checks and compiles the guest, which the option `name` named. Compiled code is kept
    /// in the folder `cache`. The error says what to change.
    pub fn load(
        name: String,
        content: Content,
        cache: Option<&Path>,
        room: Room,
        log: &Log,
    ) -> Result<Guest> {
        let made = || -> Result<_> {
            let summary = Summary::read(&content.bytes)?;
            summary.check()?;
            let data = InitialData::of(&content.bytes, summary.is_small())?;
            let source = Source { content: &content, summary: &summary, data: &data };
            let (data, code) = std::thread::scope(|scope| -> Result<_> {
                let making = data.as_ref().try_map(|data| {
                    let image = std::thread::Builder::new().name("image".into());
                    image.spawn_scoped(scope, || data.image())
                })?;
                let kept = cache.and_then(|folder| Kept::open(folder, log));
                let code = Code::compile(source, kept.as_ref(), room, log);
                let data = making.try_map(|image| -> Result<_> {
                    Ok(Arc::new(image.join().expect("making an image does not panic")?))
                })?;
                Ok((data, code?))
            })?;
            Ok((data, code, summary))
        };
        let (data, code, summary) = made().with_context(|| name.clone())?;
        Ok(Guest { summary, data, code, room, name })
    }

    /// Links it. A program has an engine, memories and stacks of its own, so that
    /// workers that have a program each meet nowhere.
    pub fn program(&self, generation: u64, host: Arc<Host>) -> Result<Program> {
        let made = || -> Result<Program> {
            let memories = self.memories();
            if let Some(memories) = &memories {
                // At the start it can still be said.
                memories.try_room(self.code.reservation_bytes + GUARD_BYTES).context(
                    "the system has no addresses for an instance; raise its limit (ulimit -v), or lower --memory-limit",
                )?;
            }
            let engine = self.engine(memories.as_ref())?;
            let entry = Entry::link(&self.code.compiled.load(&engine)?, &self.summary)?;
            let (runs_deferred_calls, closes) = (self.summary.runs_deferred_calls(), self.summary.closes());
            let initial = memory_bytes_min(&self.code.needs) + HOST_BYTES_MIN;
            ensure!(
                initial <= host.budget.bytes(),
                "an instance takes {initial} bytes at its beginning, more than --memory-total {}",
                host.budget.bytes()
            );
            let size = Size { initial, recent: AtomicU64::new(initial) };
            let reuse = self.room.reuse;
            Ok(Program {
                engine,
                entry,
                host,
                runs_deferred_calls,
                closes,
                generation,
                reuse,
                memories,
                size,
            })
        };
        made().with_context(|| self.name.clone())
    }

    fn memories(&self) -> Option<Memories> {
        // The cores' instances are spread over the programs, as a rule evenly.
        let instances = self.room.cores.div_ceil(self.room.programs) + 8;
        let kept_max = instances.saturating_mul(self.code.needs.num_memories.max(1));
        (!self.data.is_mapped()).then(|| Memories::new(self.data.taken().cloned(), kept_max as usize))
    }

    fn engine(&self, memories: Option<&Memories>) -> Result<Engine> {
        let mut config =
            settings(&self.summary, !self.data.is_mapped(), self.code.reservation_bytes).config();
        // A guest for 0.3 may have a stack for each of its tasks.
        let stacks_max = self.room.cores.saturating_mul(if self.summary.is_concurrent() { 4 } else { 1 });
        if let Some(memories) = memories {
            config.with_host_memory(Arc::new(memories.clone()));
            config.with_host_stack(Arc::new(Stacks::new(stacks_max)));
        } else {
            let pool = pool(self.room, &self.code.needs, stacks_max);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        Engine::new(&config).map_err(anyhow::Error::from).with_context(|| {
            let Room { cores, memory_bytes_max, .. } = self.room;
            format!("no room for --cores {cores} with --memory-limit {memory_bytes_max}, once a thread")
        })
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

/// What code is made of.
#[derive(Clone, Copy)]
struct Source<'a> {
    content: &'a Content,
    summary: &'a Summary,
    data: &'a InitialData<Data<'a>>,
}

impl Code {
    fn compile(source: Source<'_>, kept: Option<&Kept>, room: Room, log: &Log) -> Result<Code> {
        let code = Code::compile_for(RESERVATION_BYTES, source, kept, room, log)?;
        let needs = &code.needs;
        check_size(needs, room.memory_bytes_max)?;
        let of_one = u64::from(needs.num_memories.max(1));
        let memories = of_one * u64::from(room.cores) * u64::from(room.programs);
        if memories.saturating_mul(RESERVATION_BYTES + GUARD_BYTES) <= room.address_space_bytes {
            return Ok(code);
        }
        // Compiled again, with explicit bounds checks.
        let reservation = (room.memory_bytes_max as u64).next_multiple_of(64 << 10);
        let instances = room.address_space_bytes / (of_one * (reservation + GUARD_BYTES));
        ensure!(
            instances > 0 && memories.saturating_mul(reservation) <= ADDRESS_SPACE_BYTES,
            "--cores {} with --memory-limit {} on {} threads need more address space than there is",
            room.cores,
            room.memory_bytes_max,
            room.programs
        );
        if instances < u64::from(room.cores) {
            log.server(format_args!(
                "there are addresses for about {instances} instances at once (ulimit -v), not for --cores {}; calls beyond them are answered 503; a lower --memory-limit leaves room for more",
                room.cores
            ));
        }
        Code::compile_for(reservation, source, kept, room, log)
    }

    fn compile_for(
        reservation_bytes: u64,
        source: Source<'_>,
        kept: Option<&Kept>,
        room: Room,
        log: &Log,
    ) -> Result<Code> {
        let settings = settings(source.summary, !source.data.is_mapped(), reservation_bytes);
        let Content { bytes, sum } = source.content;
        let compile = |name: &str| match source.data {
            InitialData::Taken(_) => {
                settings.compile(name, &initial_data::without_data(bytes)?, room.compiling)
            }
            InitialData::Small | InitialData::Mapped => settings.compile(name, bytes, room.compiling),
        };
        let sum = sum.unwrap_or_else(|| blake3::hash(bytes));
        let engine = Engine::new(&settings.config())?;
        let (compiled, code) =
            compiled::load(&engine, bytes, sum, kept, log, compile).context("cannot be compiled")?;
        let needs = code.needs()?;
        Ok(Code { compiled, needs, reservation_bytes })
    }
}

/// What an instance has at its beginning, in memories and tables, at least.
fn memory_bytes_min(needs: &ResourcesRequired) -> u64 {
    let memory_bytes = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
    let table_bytes = needs.max_initial_table_size.unwrap_or(0).saturating_mul(ELEMENT_BYTES as u64);
    memory_bytes.saturating_add(table_bytes)
}

/// An instance can be made within the limit.
pub fn check_size(needs: &ResourcesRequired, memory_bytes_max: usize) -> Result<()> {
    let bytes_min = memory_bytes_min(needs);
    ensure!(
        bytes_min <= memory_bytes_max as u64,
        "starts with {bytes_min} bytes of memory and tables, more than --memory-limit {memory_bytes_max}"
    );
    Ok(())
}

/// One that compiles a guest as serving would, for those who do not serve it.
pub fn engine_for_checks(summary: &Summary) -> Result<Engine> {
    Ok(Engine::new(&settings(summary, summary.is_small(), RESERVATION_BYTES).config())?)
}

fn settings(summary: &Summary, is_small: bool, reservation_bytes: u64) -> Settings {
    Settings { is_concurrent: summary.is_concurrent(), is_small, reservation_bytes }
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
