//! Linear memories, handed from one instance to the next.
//!
//! A fresh instance needs memory that is all zeros, or the guest's initial data. Taking
//! it from the system, or watching which pages the last instance wrote, changes page
//! tables; a process with several threads pays for that on all of its CPUs. Here a
//! memory keeps its pages: when an instance is gone, those that it touched are found,
//! and put back as they were, and no page table changes. A memory that grows does so by
//! one of two ways (`Kind`): where it is, which changes page tables twice, or by a move to
//! other addresses at which the same pages are mapped.

use std::fs::File;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::mapping::Mapping;
pub use super::space::Kind;
use super::space::Space;
use crate::clock::{self, Nanos};

/// What wasmtime leaves inaccessible behind a memory.
pub const GUARD_BYTES: u64 = 32 << 20;

/// How the error begins of an instance for which the system has no addresses.
pub const NO_ADDRESSES: &str = "no addresses for a memory";

/// The memories of all programs of a server. What one of them keeps for later instances holds
/// addresses, and is given up when another one finds none. Clones are the same.
#[derive(Clone, Default)]
pub struct Neighbours(Arc<Mutex<Vec<Weak<Shared>>>>);

impl Neighbours {
    fn add(&self, shared: &Arc<Shared>) {
        let mut all = self.0.lock();
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(shared));
    }

    fn all(&self) -> Vec<Arc<Shared>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Gives what they keep back to the system.
    fn give_way(&self) {
        for shared in self.all() {
            let kept = std::mem::take(&mut *shared.free.lock());
            drop(kept);
        }
    }
}

/// Where instances take their memories from. Clones are the same.
#[derive(Clone)]
pub struct Memories(Arc<Shared>);

struct Shared {
    /// The one that was used last is taken first: its pages are in the CPU's caches.
    free: Mutex<Vec<Free>>,
    kind: Kind,
    /// `/proc/self/pagemap`; none where the system has no such thing.
    pagemap: Option<File>,
    /// Memories beyond this go back to the system.
    kept_max: usize,
    neighbours: Neighbours,
}

/// One as it is for a new instance.
struct Free {
    space: Space,
    /// When the last instance that had it was gone.
    cleared: Nanos,
}

impl Memories {
    /// Memories of this kind, of which `kept_max` are kept for later instances.
    pub fn new(kind: Kind, kept_max: usize, neighbours: &Neighbours) -> Memories {
        let pagemap = File::open("/proc/self/pagemap").ok();
        let neighbours = neighbours.clone();
        let shared = Arc::new(Shared { free: Mutex::default(), kind, pagemap, kept_max, neighbours });
        shared.neighbours.add(&shared);
        Memories(shared)
    }

    /// Whether the system has room for a memory of so many bytes, with its guard.
    pub fn try_room(&self, bytes: u64) -> std::io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(std::io::Error::other)?;
        self.or_after_others_gave_way(|| Mapping::new(0, bytes, 0, None)).map(drop)
    }

    /// Whether a memory of so many bytes can be had: someone keeps one, or the system has room.
    pub fn has_room(&self, bytes: u64) -> bool {
        let keeps_one = |shared: &Arc<Shared>| !shared.free.lock().is_empty();
        let reserved = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.0.neighbours.all().iter().any(keeps_one) || Mapping::new(0, reserved, 0, None).is_ok()
    }

    fn or_after_others_gave_way<T>(&self, make: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
        make().or_else(|_| {
            self.0.neighbours.give_way();
            make()
        })
    }

    /// Gives those back to the system that no instance has had since `time`.
    pub fn trim(&self, time: Nanos) {
        // The system takes its time; who needs a memory does not wait for that.
        let trimmed: Vec<Free> = {
            let mut free = self.0.free.lock();
            let count = free.iter().take_while(|free| free.cleared < time).count();
            free.drain(..count).collect()
        };
        drop(trimmed);
    }
}

// SAFETY: a memory has pages of its own, zeroed or as the image, which nobody touches while an
// instance has it. From its base on, all of what was asked for and its guard is mapped. When it
// grows, the base moves only if wasmtime compiles for that (`Memory::memory_may_move`, in
// version 48; the documents of this trait say that it never does).
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let reserved = reserved_size_in_bytes.unwrap_or(minimum).max(minimum);
        // Of one that could reach no further than its reservation, wasmtime takes for granted that it stays.
        let stays = ty.is_shared() || maximum.is_some_and(|maximum| maximum <= reserved);
        let free = {
            let mut free = self.0.free.lock();
            let fits = |free: &Free| {
                free.space.fits(minimum, reserved, guard_size_in_bytes) && !(stays && free.space.moves())
            };
            free.iter().rposition(fits).map(|index| free.remove(index).space)
        };
        let kind = if stays { self.0.kind.in_place() } else { self.0.kind.clone() };
        let space = match free {
            Some(space) => space,
            None => self
                .or_after_others_gave_way(|| Space::new(&kind, minimum, reserved, guard_size_in_bytes))
                .map_err(|error| format!("{NO_ADDRESSES}: {error}"))?,
        };
        Ok(Box::new(Memory { space: Some(space), bytes_min: minimum, shared: self.0.clone() }))
    }
}

/// The memory of one instance.
struct Memory {
    /// None only while it is dropped.
    space: Option<Space>,
    bytes_min: usize,
    shared: Arc<Shared>,
}

impl Memory {
    fn space(&self) -> &Space {
        self.space.as_ref().expect("the space leaves when the memory is dropped")
    }
}

// SAFETY: the base stays as it is up to the capacity, and what is not accessible of the
// reservation behind it, and of the guard, traps.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.space().bytes()
    }

    fn byte_capacity(&self) -> usize {
        self.space().capacity()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let space = self.space.as_mut().expect("the space leaves when the memory is dropped");
        Ok(space.grow(new_size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.space().start()
    }
}

impl Drop for Memory {
    /// One that cannot be cleared is given back to the system.
    fn drop(&mut self) {
        let Some(mut space) = self.space.take() else { return };
        let is_clear = space.clear(self.bytes_min, self.shared.pagemap.as_ref());
        if is_clear.unwrap_or(false) {
            let mut free = self.shared.free.lock();
            if free.len() < self.shared.kept_max {
                free.push(Free { space, cleared: clock::coarse() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::image::Image;
    use super::super::pagemap::Region;
    use super::*;

    const PAGE: usize = 64 << 10;

    fn memory(memories: &Memories, pages: usize) -> Box<dyn LinearMemory> {
        let ty = MemoryType::new(pages as u32, None);
        memories.new_memory(ty, pages * PAGE, None, Some(100 * PAGE), PAGE).unwrap()
    }

    fn bytes(memory: &mut dyn LinearMemory) -> &mut [u8] {
        // SAFETY: accessible, and borrowed from the memory.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) }
    }

    fn in_place(image: Option<Arc<Image>>) -> Memories {
        Memories::new(Kind::InPlace(image), 9, &Neighbours::default())
    }

    fn is_clear_for_the_next(memories: &Memories, pages: usize) {
        assert_eq!(memories.0.free.lock().len(), 1, "it came back");
        let mut next = memory(memories, pages);
        assert_eq!(next.byte_size(), pages * PAGE);
        next.grow_to(50 * PAGE).unwrap();
        let image = match &memories.0.kind {
            Kind::InPlace(Some(image)) => image.content(),
            _ => &[],
        };
        let (initial, zeros) = bytes(&mut *next).split_at(image.len());
        assert!(initial == image);
        assert!(zeros.iter().all(|byte| *byte == 0));
    }

    /// In both ways; in place with and without help of the system, and an image.
    fn each(pages: usize, test: impl Fn(Memories)) {
        let content = vec![5; pages * PAGE];
        for image in [None, Some(Arc::new(Image::new(content.len(), &[(0, &content)]).unwrap()))] {
            let kind = Kind::InPlace(image);
            test(Memories::new(kind.clone(), 9, &Neighbours::default()));
            let (free, neighbours) = (Mutex::default(), Neighbours::default());
            test(Memories(Arc::new(Shared { free, kind, pagemap: None, kept_max: 9, neighbours })));
        }
        test(Memories::new(Kind::InViews, 9, &Neighbours::default()));
    }

    #[test]
    fn a_memory_is_new_for_the_next_instance() {
        each(3, |memories| {
            let mut memory = memory(&memories, 3);
            for at in [0, 5000, PAGE, 3 * PAGE - 1] {
                bytes(&mut *memory)[at] = 1;
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

    fn touched(memories: &Memories) -> (usize, u64) {
        let free = memories.0.free.lock();
        let [Free { space: Space::Mapping(mapping), .. }] = &free[..] else { panic!("it came back") };
        let pagemap = memories.0.pagemap.as_ref().expect("there is a pagemap");
        let mut regions = [Region::default(); 4];
        let touched = mapping.touched(pagemap, 0, &mut regions).expect("the system can tell");
        (touched.regions, regions[0].start - mapping.start() as u64)
    }

    #[test]
    fn what_was_touched_stays_in_place() {
        if !system_tells() {
            return;
        }
        let content = vec![5; 3 * PAGE];
        for image in [None, Some(Arc::new(Image::new(content.len(), &[(0, &content)]).unwrap()))] {
            let memories = in_place(image);
            let mut memory = memory(&memories, 3);
            bytes(&mut *memory)[2 * PAGE] = 1;
            drop(memory);
            assert_eq!(touched(&memories), (1, 2 * PAGE as u64));
        }
    }

    #[test]
    fn no_memory_grows_beyond_its_reservation() {
        each(1, |memories| {
            let mut memory = memory(&memories, 1);
            assert!(memory.grow_to(101 * PAGE).is_err());
            assert_eq!(memory.byte_size(), PAGE);
        });
    }

    #[test]
    fn only_so_many_memories_are_kept() {
        let memories = Memories::new(Kind::InPlace(None), 1, &Neighbours::default());
        drop((memory(&memories, 1), memory(&memories, 1)));
        assert_eq!(memories.0.free.lock().len(), 1);
    }

    #[test]
    fn a_memory_that_grew_is_cut_and_new() {
        each(1, |memories| {
            let mut memory = memory(&memories, 1);
            memory.grow_to(40 * PAGE).unwrap();
            bytes(&mut *memory).fill(7);
            drop(memory);
            is_clear_for_the_next(&memories, 1);
        });
    }

    #[test]
    fn more_touched_pages_than_one_look_finds_are_put_back() {
        each(40, |memories| {
            let mut memory = memory(&memories, 40);
            for page in bytes(&mut *memory).chunks_mut(8192) {
                page[0] = 9;
            }
            drop(memory);
            is_clear_for_the_next(&memories, 40);
        });
    }

    /// Whether the system lets this process read there.
    fn is_accessible(address: *const u8) -> bool {
        let (mut byte, pid) = (0u8, rustix::process::getpid().as_raw_pid());
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: 1 };
        // SAFETY: the system writes into `byte`, and an address that is not accessible is an error.
        unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) == 1 }
    }

    proptest! {
        /// Each instance grows, and writes at places that are there, in an order of its own.
        #[test]
        fn whatever_earlier_instances_did_a_memory_has_what_was_written_and_ends_where_it_ends(
            instances in proptest::collection::vec(
                proptest::collection::vec((0..6usize, any::<proptest::sample::Index>(), 1..255u8), 0..12),
                1..30,
            ),
            in_views: bool,
        ) {
            let kind = if in_views { Kind::InViews } else { Kind::InPlace(None) };
            let memories = Memories::new(kind, 1, &Neighbours::default());
            for steps in instances {
                let mut memory = memory(&memories, 2);
                let mut model = vec![0; 2 * PAGE];
                prop_assert!(bytes(&mut *memory) == model);
                for (pages, index, byte) in steps {
                    memory.grow_to(model.len() + pages * PAGE).unwrap();
                    model.resize(model.len() + pages * PAGE, 0);
                    let at = index.index(model.len());
                    bytes(&mut *memory)[at] = byte;
                    model[at] = byte;
                    prop_assert!(is_accessible(memory.as_ptr().wrapping_add(model.len() - 1)));
                    prop_assert!(!is_accessible(memory.as_ptr().wrapping_add(model.len())));
                }
                prop_assert!(bytes(&mut *memory) == model);
                let end = memory.as_ptr().wrapping_add(100 * PAGE);
                prop_assert!(!is_accessible(end) && !is_accessible(end.wrapping_add(PAGE - 1)));
            }
        }
    }
}
