//! The address space of one memory: how it grows, and how it becomes as it was at the
//! beginning.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

use super::image::Image;
use super::pagemap::{self, Region, Touched};

/// Bytes of one memory that stay in place for the next instance; what was touched
/// beyond them goes back to the system.
const RESIDENT_BYTES_MAX: usize = 256 << 10;
/// The same for memory with an image: an interpreter touches many pages in each call.
const RESIDENT_IMAGE_BYTES_MAX: usize = 4 << 20;

/// A piece of address space: accessible at its beginning, reserved behind that,
/// and a guard at its end.
pub(super) struct Mapping {
    base: NonNull<u8>,
    pub bytes_accessible: usize,
    pub bytes_reserved: usize,
    bytes_mapped: usize,
    /// What it begins as.
    image: Option<Arc<Image>>,
}

// SAFETY: the address space belongs to this value alone.
unsafe impl Send for Mapping {}
// SAFETY: what changes it takes `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(
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
            Mapping { base, bytes_accessible: 0, bytes_reserved: reserved, bytes_mapped, image };
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

    /// Whether it can be the memory of an instance that begins with so many bytes.
    pub(super) fn fits(&self, bytes: usize, reserved: usize, guard: usize) -> bool {
        self.bytes_accessible == bytes
            && self.bytes_reserved == reserved
            && self.bytes_mapped >= reserved + guard
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: callers stay within the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    pub(super) fn grow(&mut self, bytes: usize) -> std::io::Result<()> {
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
    pub(super) fn cut(&mut self, bytes: usize) -> std::io::Result<()> {
        let surplus = self.bytes_accessible.saturating_sub(bytes);
        if surplus > 0 {
            // SAFETY: within the mapping, which no instance has at present.
            unsafe { mprotect(self.at(bytes).cast(), surplus, MprotectFlags::empty())? };
            self.bytes_accessible = bytes;
        }
        Ok(())
    }

    /// Puts back what was written.
    pub(super) fn clear(&mut self, pagemap: Option<&File>) -> std::io::Result<()> {
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

    /// Finds the pages from `seen` on that the system holds for this memory alone; none if it
    /// cannot tell.
    pub(super) fn touched(&self, pagemap: &File, seen: usize, regions: &mut [Region]) -> Option<Touched> {
        let start = self.base.as_ptr() as usize;
        pagemap::touched(pagemap, start + seen..start + self.bytes_accessible, regions)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped in this size, and nobody has a pointer to it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes_mapped) };
        debug_assert!(unmapped.is_ok());
    }
}
