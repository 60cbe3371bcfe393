//! How engines are made of what a server has room for: the memory of instances, and the
//! address space for it.

use anyhow::{Result, ensure};
use wasmtime::{Enabled, Engine, PoolingAllocationConfig, ResourcesRequired};

use super::Reuse;
use crate::guest::compiling::{self, RESERVATION_BYTES, Settings};
use crate::guest::summary::Summary;
use crate::memory::memories::GUARD_BYTES;
use crate::memory::views;
use crate::sandbox::state::ELEMENT_BYTES;

/// The same for a memory that may move: the compiler takes one that could reach no further for one that
/// stays. The guard behind it covers the rest.
pub(super) const MOVING_RESERVATION_BYTES: u64 = RESERVATION_BYTES - (64 << 10);
/// Half of what a process of this architecture can address.
pub(crate) const ADDRESS_SPACE_BYTES: u64 = 64 << 40;
/// Elements that one table may hold, if the guest does not start with more.
const TABLE_ELEMENTS_MAX: u64 = 100_000;

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

impl Room {
    /// Memories of a program that are kept for later instances. The cores' instances are spread over
    /// the programs, as a rule evenly.
    pub fn memories_kept(&self, of_one: u32) -> usize {
        (self.cores.div_ceil(self.programs) + 8).saturating_mul(of_one.max(1)) as usize
    }

    /// Whether memories move when they grow, so many of one instance: those of instances that serve
    /// many calls seldom grow.
    pub fn memories_may_move(&self, of_one: u32) -> bool {
        let kept = self.memories_kept(of_one) as u64 * u64::from(self.programs);
        let memories = u64::from(self.cores) * u64::from(of_one.max(1)) + kept;
        let bytes = memories.saturating_mul(views::VIEWS_MAX as u64 * (RESERVATION_BYTES + GUARD_BYTES));
        self.reuse.calls_max == 1
            && self.memory_bytes_max as u64 <= MOVING_RESERVATION_BYTES
            && bytes <= self.address_space_bytes
            && views::can_be_had(memories)
    }
}

/// What an instance has at its beginning, in memories and tables, at least.
pub(super) fn memory_bytes_min(needs: &ResourcesRequired) -> u64 {
    let memory_bytes = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
    let table_bytes = needs.max_initial_table_size.unwrap_or(0).saturating_mul(ELEMENT_BYTES as u64);
    memory_bytes.saturating_add(table_bytes)
}

/// An instance can be made within the limit.
pub(crate) fn check_size(needs: &ResourcesRequired, memory_bytes_max: usize) -> Result<()> {
    let bytes_min = memory_bytes_min(needs);
    ensure!(
        bytes_min <= memory_bytes_max as u64,
        "starts with {bytes_min} bytes of memory and tables, more than --memory-limit {memory_bytes_max}"
    );
    Ok(())
}

/// One that compiles a guest as serving would, for those who do not serve it.
pub(crate) fn engine_for_checks(summary: &Summary) -> Result<Engine> {
    Ok(Engine::new(&settings(summary, summary.is_small(), RESERVATION_BYTES).config())?)
}

pub(super) fn settings(summary: &Summary, is_small: bool, reservation_bytes: u64) -> Settings {
    Settings { is_concurrent: summary.is_concurrent(), is_small, reservation_bytes }
}

pub(super) fn pool(room: Room, needs: &ResourcesRequired, stacks_max: u32) -> PoolingAllocationConfig {
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
