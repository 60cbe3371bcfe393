//! Linear memories, handed from one instance to the next.
//!
//! A fresh instance needs memory that is all zeros, or the guest's initial data. Taking
//! it from the system, or watching which pages the last instance wrote, changes page
//! tables; a process with several threads pays for that on all of its CPUs. Here a
//! memory keeps its pages: when an instance is gone, those that it touched are found
//! with one system call and put back as they were, and no page table changes. Only a
//! memory that grew is cut back to its initial size by the system, since what lies
//! behind its end must trap.

use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::image::Image;
use super::mapping::Mapping;
use crate::clock::{self, Nanos};

/// What wasmtime leaves inaccessible behind a memory.
pub const GUARD_BYTES: u64 = 32 << 20;

/// How the error begins of an instance for which the system has no addresses.
pub const NO_ADDRESSES: &str = "no addresses for a memory";

/// Where instances take their memories from. Clones are the same.
#[derive(Clone)]
pub struct Memories(Arc<Shared>);

struct Shared {
    /// As they are for a new instance; accessible are as many bytes as the memory had
    /// initially. The one that was used last is taken first: its pages are in the CPU's
    /// caches.
    free: Mutex<Vec<Mapping>>,
    /// What memories of its size begin as; others, and all without it, are zeros.
    image: Option<Arc<Image>>,
    /// `/proc/self/pagemap`; none where the system has no such thing.
    pagemap: Option<File>,
    /// Memories beyond this go back to the system.
    kept_max: usize,
}

impl Memories {
    /// Memories that begin as `image`, of which `kept_max` are kept for later instances.
    pub fn new(image: Option<Arc<Image>>, kept_max: usize) -> Memories {
        let pagemap = File::open("/proc/self/pagemap").ok();
        Memories(Arc::new(Shared { free: Mutex::new(Vec::new()), image, pagemap, kept_max }))
    }

    /// Whether the system has room for a memory of so many bytes, with its guard.
    pub fn try_room(&self, bytes: u64) -> std::io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(std::io::Error::other)?;
        Mapping::new(0, bytes, 0, None).map(drop)
    }

    /// Gives those back to the system that no instance has had since `time`.
    pub fn trim(&self, time: Nanos) {
        // The system takes its time; who needs a memory does not wait for that.
        let trimmed: Vec<Mapping> = {
            let mut free = self.0.free.lock();
            let count = free.iter().take_while(|mapping| mapping.cleared < time).count();
            free.drain(..count).collect()
        };
        drop(trimmed);
    }
}

// SAFETY: a memory is a mapping of its own, of the size that was asked for, with
// its guard, page-aligned, zeroed, and not touched while an instance has it.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let reserved = reserved_size_in_bytes.unwrap_or(minimum).max(minimum);
        let fits = |mapping: &Mapping| {
            mapping.bytes_accessible == minimum
                && mapping.bytes_reserved == reserved
                && mapping.bytes_mapped >= reserved + guard_size_in_bytes
        };
        let free = {
            let mut free = self.0.free.lock();
            free.iter().rposition(fits).map(|index| free.remove(index))
        };
        let mapping = match free {
            Some(mapping) => mapping,
            None => Mapping::new(minimum, reserved, guard_size_in_bytes, self.0.image.as_ref())
                .map_err(|error| format!("{NO_ADDRESSES}: {error}"))?,
        };
        Ok(Box::new(Memory { mapping: Some(mapping), bytes_min: minimum, shared: self.0.clone() }))
    }
}

/// The memory of one instance.
struct Memory {
    /// None only while it is dropped.
    mapping: Option<Mapping>,
    bytes_min: usize,
    shared: Arc<Shared>,
}

impl Memory {
    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("the mapping leaves when the memory is dropped")
    }
}

// SAFETY: base and reservation stay as they are until the memory is dropped, and
// what is not accessible traps.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.mapping().bytes_accessible
    }

    fn byte_capacity(&self) -> usize {
        self.mapping().bytes_reserved
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let mapping = self.mapping.as_mut().expect("the mapping leaves when the memory is dropped");
        Ok(mapping.grow(new_size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.mapping().start()
    }
}

impl Drop for Memory {
    /// One that cannot be cleared is given back to the system.
    fn drop(&mut self) {
        let Some(mut mapping) = self.mapping.take() else { return };
        let cleared = mapping.clear(self.shared.pagemap.as_ref()).and_then(|()| mapping.cut(self.bytes_min));
        if cleared.is_ok() {
            mapping.cleared = clock::coarse();
            let mut free = self.shared.free.lock();
            if free.len() < self.shared.kept_max {
                free.push(mapping);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pagemap::Region;
    use super::*;

    const PAGE: usize = 64 << 10;

    fn memory(memories: &Memories, pages: usize) -> Memory {
        let mapping = Mapping::new(pages * PAGE, 100 * PAGE, PAGE, memories.0.image.as_ref()).unwrap();
        Memory { mapping: Some(mapping), bytes_min: pages * PAGE, shared: memories.0.clone() }
    }

    fn bytes(memory: &mut Memory) -> &mut [u8] {
        // SAFETY: accessible, and borrowed from the memory.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) }
    }

    fn is_clear_for_the_next(memories: &Memories, pages: usize) {
        let mapping = memories.0.free.lock().pop().expect("it came back");
        let mut next = Memory { mapping: Some(mapping), bytes_min: pages * PAGE, shared: memories.0.clone() };
        assert_eq!(next.byte_size(), pages * PAGE);
        next.grow_to(50 * PAGE).unwrap();
        let image = memories.0.image.as_ref().map_or(&[][..], |image| image.content());
        let (initial, zeros) = bytes(&mut next).split_at(image.len());
        assert!(initial == image);
        assert!(zeros.iter().all(|byte| *byte == 0));
    }

    /// With and without help of the system, and an image.
    fn each(pages: usize, test: impl Fn(Memories)) {
        let content = vec![5; pages * PAGE];
        for image in [None, Some(Arc::new(Image::new(content.len(), &[(0, &content)]).unwrap()))] {
            test(Memories::new(image.clone(), 9));
            test(Memories(Arc::new(Shared { free: Mutex::default(), image, pagemap: None, kept_max: 9 })));
        }
    }

    #[test]
    fn a_memory_is_new_for_the_next_instance() {
        each(3, |memories| {
            let mut memory = memory(&memories, 3);
            for at in [0, 5000, PAGE, 3 * PAGE - 1] {
                bytes(&mut memory)[at] = 1;
            }
            drop(memory);
            is_clear_for_the_next(&memories, 3);
        });
    }

    /// Linux can since 6.7.
    fn system_tells() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(7))
    }

    #[test]
    fn the_system_tells_which_pages_were_touched() {
        if !system_tells() {
            return;
        }
        let memories = Memories::new(None, 9);
        let mut memory = memory(&memories, 3);
        bytes(&mut memory)[2 * PAGE] = 1;
        let mut regions = [Region::default(); 4];
        let pagemap = memories.0.pagemap.as_ref().expect("there is a pagemap");
        let touched = memory.mapping().touched(pagemap, 0, &mut regions).expect("the system can tell");
        assert_eq!(touched.regions, 1);
        assert_eq!(regions[0].start, memory.as_ptr() as u64 + 2 * PAGE as u64);
    }

    #[test]
    fn what_was_touched_stays_in_place() {
        if !system_tells() {
            return;
        }
        each(3, |memories| {
            let mut memory = memory(&memories, 3);
            bytes(&mut memory)[PAGE] = 1;
            drop(memory);
            let mapping = memories.0.free.lock().pop().expect("it came back");
            let found = memories.0.pagemap.as_ref().map(|pagemap| {
                mapping.touched(pagemap, 0, &mut [Region::default(); 4]).expect("the system can tell").regions
            });
            assert!(found.is_none_or(|regions| regions == 1));
        });
    }

    #[test]
    fn no_memory_grows_beyond_its_reservation() {
        let memories = Memories::new(None, 9);
        let mut memory = memory(&memories, 1);
        assert!(memory.grow_to(101 * PAGE).is_err());
        assert_eq!(memory.byte_size(), PAGE);
    }

    #[test]
    fn only_so_many_memories_are_kept() {
        let memories = Memories::new(None, 1);
        drop((memory(&memories, 1), memory(&memories, 1)));
        assert_eq!(memories.0.free.lock().len(), 1);
    }

    #[test]
    fn a_memory_that_grew_is_cut_and_new() {
        each(1, |memories| {
            let mut memory = memory(&memories, 1);
            memory.grow_to(40 * PAGE).unwrap();
            bytes(&mut memory).fill(7);
            drop(memory);
            is_clear_for_the_next(&memories, 1);
        });
    }

    #[test]
    fn more_touched_pages_than_one_look_finds_are_put_back() {
        each(40, |memories| {
            let mut memory = memory(&memories, 40);
            for page in bytes(&mut memory).chunks_mut(8192) {
                page[0] = 9;
            }
            drop(memory);
            is_clear_for_the_next(&memories, 40);
        });
    }
}
