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
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::image::Image;
use crate::clock::{self, Nanos};

/// Bytes of one memory that stay in place for the next instance; what was touched
/// beyond them goes back to the system.
const RESIDENT_BYTES_MAX: usize = 256 << 10;
/// The same for memory with an image: an interpreter touches many pages in each call.
const RESIDENT_IMAGE_BYTES_MAX: usize = 4 << 20;

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
        self.mapping().base.as_ptr()
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

/// A piece of address space: accessible at its beginning, reserved behind that,
/// and a guard at its end.
struct Mapping {
    base: NonNull<u8>,
    bytes_accessible: usize,
    bytes_reserved: usize,
    bytes_mapped: usize,
    /// What it begins as.
    image: Option<Arc<Image>>,
    /// When the last instance that had it was gone.
    cleared: Nanos,
}

// SAFETY: the address space belongs to this value alone.
unsafe impl Send for Mapping {}
// SAFETY: what changes it takes `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(
        accessible: usize,
        reserved: usize,
        guard: usize,
        image: Option<&Arc<Image>>,
    ) -> std::io::Result<Mapping> {
        let bytes_mapped = reserved + guard;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at a place that the system chooses.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes_mapped, ProtFlags::empty(), flags)? };
        let base = NonNull::new(base.cast()).expect("the system maps nothing at address 0");
        // A guest's only linear memory has the size of its image.
        let image = image.filter(|image| image.content().len() == accessible).cloned();
        let mut mapping =
            Mapping { base, bytes_accessible: 0, bytes_reserved: reserved, bytes_mapped, image, cleared: 0 };
        match &mapping.image {
            Some(image) => {
                // SAFETY: the beginning of the mapping, which is longer.
                unsafe { image.map_at(base.as_ptr())? };
                mapping.bytes_accessible = accessible;
            }
            None => mapping.grow(accessible)?,
        }
        Ok(mapping)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: callers stay within the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    fn grow(&mut self, bytes: usize) -> std::io::Result<()> {
        if bytes > self.bytes_reserved {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let more = bytes.saturating_sub(self.bytes_accessible);
        if more > 0 {
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: within the reservation, as was just checked.
            unsafe { mprotect(self.at(self.bytes_accessible).cast(), more, flags)? };
            self.bytes_accessible = bytes;
        }
        Ok(())
    }

    /// Makes all but the first `bytes` inaccessible again.
    fn cut(&mut self, bytes: usize) -> std::io::Result<()> {
        let surplus = self.bytes_accessible.saturating_sub(bytes);
        if surplus > 0 {
            // SAFETY: within the mapping, which no instance has at present.
            unsafe { mprotect(self.at(bytes).cast(), surplus, MprotectFlags::empty())? };
            self.bytes_accessible = bytes;
        }
        Ok(())
    }

    /// Puts back what was written.
    fn clear(&mut self, pagemap: Option<&File>) -> std::io::Result<()> {
        let Some(pagemap) = pagemap else { return self.discard(0, self.bytes_accessible) };
        let resident_max = if self.image.is_some() { RESIDENT_IMAGE_BYTES_MAX } else { RESIDENT_BYTES_MAX };
        let mut regions = [Region::default(); 64];
        let (mut seen, mut resident) = (0, 0);
        while seen < self.bytes_accessible {
            let Some(touched) = self.touched(pagemap, seen, &mut regions) else { break };
            for region in &regions[..touched.regions] {
                let start = region.start as usize - self.base.as_ptr() as usize;
                let bytes = (region.end - region.start) as usize;
                resident += bytes;
                if resident > resident_max {
                    return self.discard(start, self.bytes_accessible - start);
                }
                self.put_back(start, bytes);
            }
            seen = touched.end as usize - self.base.as_ptr() as usize;
        }
        self.discard(seen, self.bytes_accessible - seen)
    }

    /// Overwrites a part with what it was at the beginning.
    fn put_back(&mut self, start: usize, bytes: usize) {
        let content = self.image.as_ref().map_or(&[][..], |image| image.content());
        let content = &content[start.min(content.len())..(start + bytes).min(content.len())];
        // SAFETY: the accessible part of a memory that no instance has, and the image is
        // a mapping of its own.
        unsafe {
            self.at(start).copy_from_nonoverlapping(content.as_ptr(), content.len());
            self.at(start + content.len()).write_bytes(0, bytes - content.len());
        }
    }

    /// Gives pages back to the system; they are as at the beginning when they are touched
    /// again.
    fn discard(&mut self, start: usize, bytes: usize) -> std::io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: private pages of a memory that no instance has.
        unsafe { Ok(madvise(self.at(start).cast(), bytes, Advice::LinuxDontNeed)?) }
    }

    /// Finds the pages from `seen` on that the system holds for this memory alone, whether
    /// in place or swapped out; none if it cannot tell (Linux can since 6.7).
    fn touched(&self, pagemap: &File, seen: usize, regions: &mut [Region]) -> Option<Touched> {
        let start = self.base.as_ptr() as u64 + seen as u64;
        let end = self.base.as_ptr() as u64 + self.bytes_accessible as u64;
        let scan = PagemapScan(ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start,
            end,
            regions: regions.as_mut_ptr() as u64,
            regions_max: regions.len() as u64,
            // A read leaves the system's own page of zeros, or the image's.
            category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            category_mask: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            category_any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
            ..ScanArgument::default()
        });
        // SAFETY: the system writes to `regions` and to the argument only.
        unsafe { rustix::ioctl::ioctl(pagemap, scan).ok() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped in this size, and nobody has a pointer to it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes_mapped) };
        debug_assert!(unmapped.is_ok());
    }
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// What a scan found: so many regions, up to this address.
struct Touched {
    regions: usize,
    end: u64,
}

/// `PAGEMAP_SCAN` (Linux, Documentation/admin-guide/mm/pagemap.rst).
struct PagemapScan(ScanArgument);

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_max: u64,
    pages_max: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

// SAFETY: the number and the argument are those of `PAGEMAP_SCAN`; the system
// writes the end of its walk into the argument and gives the count of regions.
unsafe impl Ioctl for PagemapScan {
    type Output = Touched;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<ScanArgument>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        argument: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<Touched> {
        // SAFETY: it is the argument that `as_ptr` gave.
        let end = unsafe { (*argument.cast::<ScanArgument>()).walk_end };
        Ok(Touched { regions: output as usize, end })
    }
}

#[cfg(test)]
mod tests {
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
