//! From the guest's file to a program that is checked, compiled and linked, so
//! that making an instance of it is all that a call has to do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, ensure};
use wasmtime::{Engine, InstanceAllocationStrategy, ResourcesRequired};

use super::engine::{
    ADDRESS_SPACE_BYTES, MOVING_RESERVATION_BYTES, Room, check_size, memory_bytes_min, pool, settings,
};
use super::link::Entry;
use super::{Program, Size};
use crate::guest::Content;
use crate::guest::compiling::{Compiled, RESERVATION_BYTES};
use crate::guest::initial_data::{self, Data, InitialData};
use crate::guest::kept_code::{self, Kept};
use crate::guest::summary::Summary;
use crate::memory::image::Image;
use crate::memory::memories::{GUARD_BYTES, Kind, Memories, Neighbours};
use crate::memory::stacks::Stacks;
use crate::sandbox::host::Host;
use crate::sandbox::state::HOST_BYTES_MIN;
use crate::telemetry::log::Log;

/// A guest that is checked and compiled.
pub(crate) struct Guest {
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
    pub(crate) fn load(
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

    /// There are no addresses for an instance of each core.
    pub(crate) fn is_short_of_addresses(&self) -> bool {
        self.code.addresses_short.is_some()
    }

    /// Links it. A program has an engine, memories and stacks of its own, so that
    /// workers that have a program each meet nowhere.
    pub(crate) fn program(&self, generation: u64, host: Arc<Host>) -> Result<Program> {
        let made = || -> Result<Program> {
            let memories = self.memories(&host.memories);
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
                addresses_short: self.code.addresses_short,
                size,
            })
        };
        made().with_context(|| self.name.clone())
    }

    fn memories(&self, neighbours: &Neighbours) -> Option<Memories> {
        let kind = match self.code.moves {
            true => Kind::InViews,
            false => Kind::InPlace(self.data.taken().cloned()),
        };
        let kept_max = self.room.memories_kept(self.code.needs.num_memories);
        (!self.data.is_mapped()).then(|| Memories::new(kind, kept_max, neighbours))
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
    compiled: kept_code::Code,
    needs: ResourcesRequired,
    /// Bytes of address space for each memory.
    reservation_bytes: u64,
    /// Memories move when they grow.
    moves: bool,
    /// There are none for an instance of each core; then, what one memory needs of them.
    addresses_short: Option<u64>,
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
        if matches!(source.data, InitialData::Small) && room.memories_may_move(1) {
            let code = Code::compile_for(MOVING_RESERVATION_BYTES, source, kept, room, log)?;
            // How many it has is known now.
            if room.memories_may_move(code.needs.num_memories) {
                check_size(&code.needs, room.memory_bytes_max)?;
                return Ok(Code { moves: true, ..code });
            }
        }
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
        let is_short = instances < u64::from(room.cores);
        if is_short {
            log.server(format_args!(
                "there are addresses for about {instances} instances at once (ulimit -v), not for --cores {}; calls beyond them wait, and are then answered 503; a lower --memory-limit leaves room for more",
                room.cores
            ));
        }
        let code = Code::compile_for(reservation, source, kept, room, log)?;
        Ok(Code { addresses_short: is_short.then_some(reservation + GUARD_BYTES), ..code })
    }

    fn compile_for(
        reservation_bytes: u64,
        source: Source<'_>,
        kept: Option<&Kept>,
        room: Room,
        log: &Log,
    ) -> Result<Code> {
        let settings = settings(source.summary, !source.data.is_mapped(), reservation_bytes);
        let Content { bytes, is_made_here } = source.content;
        let without_data = match source.data {
            InitialData::Taken(_) => Some(initial_data::without_data(bytes)?),
            InitialData::Small | InitialData::Mapped => None,
        };
        let guest = without_data.as_deref().unwrap_or(bytes);
        // Applications of one interpreter differ in their data alone, and have the same code.
        let sum = blake3::hash(guest);
        let compile = |name: &str| {
            let kept = kept.filter(|_| *is_made_here);
            let known = kept.and_then(|kept| kept.functions(log));
            let Compiled { code, functions } =
                settings.compile(name, guest, room.compiling, known.as_ref())?;
            if let (Some(kept), Some(functions)) = (kept, functions) {
                kept.keep_functions(&functions, log);
            }
            Ok(code)
        };
        let engine = Engine::new(&settings.config())?;
        let (compiled, code) =
            kept_code::load(&engine, guest, sum, kept, log, compile).context("cannot be compiled")?;
        let needs = code.needs()?;
        Ok(Code { compiled, needs, reservation_bytes, moves: false, addresses_short: None })
    }
}
