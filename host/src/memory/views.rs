//! A memory that grows without a change of page tables: its pages are mapped several times,
//! each time with another size, and a memory that grows goes on in the next of these views.
//!
//! What one instance of a guest grew to, the next ones will, so views are soon there for all
//! sizes. What lies behind the end of a view traps there as anywhere else.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom, fallocate, fstat, memfd_create, seek};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap};

/// Sizes that one memory may have without a change of page tables.
pub const VIEWS_MAX: usize = 8;
/// So often a memory may grow to other sizes before its views are made anew.
const LENGTHENED_MAX: u32 = 64;
/// Bytes that stay in place for the next instance; what was touched beyond them goes back to
/// the system.
const HELD_BYTES_MAX: usize = 2 << 20;
/// To clear so much is cheap. Of more, it is found out from time to time what is still touched.
const HELD_BYTES_CHEAP: usize = 256 << 10;
/// So many instances later.
const HELD_TIMES_MAX: u32 = 64;
/// What a file's blocks are counted in (`stat(2)`).
const BLOCK_BYTES: usize = 512;

/// Whether the system has room for so many such memories, and does what they rely on. Where it
/// promises no more memory than it has (`vm.overcommit_memory`), who touches a page for which
/// there is no room would end the server.
pub fn can_be_had(memories: u64) -> bool {
    let number = |name| std::fs::read_to_string(format!("/proc/sys/vm/{name}")).ok()?.trim().parse().ok();
    let promises_more = number("overcommit_memory").is_some_and(|mode: u64| mode != 2);
    // A view is accessible up to some place, and inaccessible behind it.
    let mappings = memories.saturating_mul(2 * VIEWS_MAX as u64);
    let has_room = number("max_map_count").is_some_and(|most: u64| mappings <= most / 2);
    promises_more && has_room && tells_what_was_touched().unwrap_or(false)
}

fn tells_what_was_touched() -> io::Result<bool> {
    const BYTES: usize = 256 << 10;
    let mut views = Views::new(BYTES, BYTES, 0)?;
    // SAFETY: within its first view.
    unsafe { views.start().add(BYTES / 2).write_volatile(1) };
    views.find_held()?;
    Ok(views.held.len() == 1 && views.held[0].start == BYTES / 2 && views.held[0].end < BYTES)
}

pub(super) struct Views {
    /// A file in memory.
    pages: File,
    /// Its length. No view ends behind that.
    pages_bytes: usize,
    /// The first one has the size that the memory has at the beginning.
    views: Vec<View>,
    current: usize,
    /// The parts of the file that have pages, as they were found last. All others are zeros.
    held: Vec<Range<usize>>,
    held_times: u32,
    lengthened: u32,
}

impl Views {
    pub(super) fn new(bytes: usize, reserved: usize, guard: usize) -> io::Result<Views> {
        let pages = File::from(memfd_create("wasm-serve memory", MemfdFlags::CLOEXEC)?);
        let mut views = Views {
            pages,
            pages_bytes: 0,
            views: Vec::new(),
            current: 0,
            held: Vec::new(),
            held_times: 0,
            lengthened: 0,
        };
        views.open(bytes, reserved, guard)?;
        Ok(views)
    }

    /// Whether it can be the memory of an instance that begins with so many bytes.
    pub(super) fn fits(&self, bytes: usize, reserved: usize, guard: usize) -> bool {
        let first = &self.views[0];
        first.size == bytes && first.reserved == reserved && first.guard == guard
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.views[self.current].base.as_ptr()
    }

    pub(super) fn bytes(&self) -> usize {
        self.views[self.current].accessible
    }

    pub(super) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let View { reserved, guard, .. } = self.views[0];
        if bytes > reserved {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if bytes <= self.bytes() {
            return Ok(());
        }
        match self.views.iter().position(|view| view.accessible == bytes) {
            Some(index) => self.current = index,
            // There may be no addresses for one more.
            None if self.views.len() < VIEWS_MAX && self.open(bytes, reserved, guard).is_ok() => {
                self.current = self.views.len() - 1;
            }
            None => {
                self.lengthen(bytes)?;
                self.views[self.current].set_accessible(bytes)?;
                self.lengthened += 1;
            }
        }
        Ok(())
    }

    fn open(&mut self, bytes: usize, reserved: usize, guard: usize) -> io::Result<()> {
        self.lengthen(bytes)?;
        let mut view = View::new(&self.pages, reserved, guard)?;
        view.set_accessible(bytes)?;
        view.size = bytes;
        self.views.push(view);
        Ok(())
    }

    fn lengthen(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.pages_bytes {
            self.pages.set_len(bytes as u64)?;
            self.pages_bytes = bytes;
        }
        Ok(())
    }

    /// Makes it what it was at the beginning: of its first size, and zeros. An error, or false,
    /// if another one is better made in its place.
    pub(super) fn clear(&mut self) -> io::Result<bool> {
        self.find_held()?;
        let widest = self.views.iter().max_by_key(|view| view.accessible).expect("there is a first one");
        for part in &self.held {
            // SAFETY: accessible there, in a memory that no instance has.
            unsafe { widest.base.as_ptr().add(part.start).write_bytes(0, part.len()) };
        }
        self.current = 0;
        if self.views.iter().any(|view| view.accessible > view.size) {
            self.cut()?;
        }
        Ok(self.lengthened <= LENGTHENED_MAX)
    }

    /// Makes each view as long as it was made.
    fn cut(&mut self) -> io::Result<()> {
        let mut end = 0;
        for view in &mut self.views {
            view.set_accessible(view.size)?;
            end = end.max(view.size);
        }
        self.give_back(end)
    }

    /// Finds the pages that were touched since they came from the system.
    fn find_held(&mut self) -> io::Result<()> {
        let known: usize = self.held.iter().map(Range::len).sum();
        if known > HELD_BYTES_CHEAP {
            self.held_times += 1;
            if self.held_times > HELD_TIMES_MAX {
                self.held_times = 0;
                return self.give_back(0);
            }
        }
        // Those that are known were written when they were cleared, so they have their places in the
        // file, swapped out or not, until they are given back. If there are no more, it is these.
        let blocks = fstat(&self.pages)?.st_blocks as usize;
        if blocks * BLOCK_BYTES == known {
            return Ok(());
        }
        self.held.clear();
        let (mut end, mut total) = (0, 0);
        loop {
            let start = match seek(&self.pages, SeekFrom::Data(end)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            end = seek(&self.pages, SeekFrom::Hole(start))?;
            total += (end - start) as usize;
            if total > HELD_BYTES_MAX {
                return self.give_back(start as usize);
            }
            self.held.push(start as usize..end as usize);
        }
    }

    /// Gives the pages from there on back to the system. They are zeros when they are touched again.
    fn give_back(&mut self, start: usize) -> io::Result<()> {
        self.held.retain(|part| part.end <= start);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.pages_bytes.saturating_sub(start) {
            0 => Ok(()),
            bytes => Ok(fallocate(&self.pages, flags, start as u64, bytes as u64)?),
        }
    }
}

/// The pages from the first one on, accessible up to some size, with the addresses that may be
/// computed behind that.
struct View {
    base: NonNull<u8>,
    reserved: usize,
    guard: usize,
    /// Bytes that are accessible, as it was made.
    size: usize,
    /// And now.
    accessible: usize,
}

// SAFETY: the address space belongs to this value alone, and what changes it takes `&mut self`.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    fn new(pages: &File, reserved: usize, guard: usize) -> io::Result<View> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at a place that the system chooses.
        let base = unsafe { mmap(ptr::null_mut(), reserved + guard, ProtFlags::empty(), flags, pages, 0)? };
        let base = NonNull::new(base.cast()).expect("the system maps nothing at address 0");
        let view = View { base, reserved, guard, size: 0, accessible: 0 };
        let advise = |advice| {
            // SAFETY: a new mapping, of this size.
            match unsafe { madvise(base.as_ptr().cast(), reserved + guard, advice) } {
                // It has nothing of the kind.
                Err(Errno::INVAL) => Ok(()),
                advised => advised,
            }
        };
        // What was touched is counted in small pages, and is nobody else's affair.
        advise(Advice::LinuxNoHugepage)?;
        advise(Advice::LinuxDontDump)?;
        Ok(view)
    }

    /// The file has so many bytes.
    fn set_accessible(&mut self, bytes: usize) -> io::Result<()> {
        let (from, to, flags) = match bytes > self.accessible {
            true => (self.accessible, bytes, MprotectFlags::READ | MprotectFlags::WRITE),
            false => (bytes, self.accessible, MprotectFlags::empty()),
        };
        if from < to {
            // SAFETY: within the mapping, since `bytes` is at most what is reserved; and what is made
            // inaccessible is of a memory that no instance has.
            unsafe { mprotect(self.base.as_ptr().add(from).cast(), to - from, flags)? };
            self.accessible = bytes;
        }
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: it was mapped in this size, and nobody has a pointer to it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.reserved + self.guard) };
        debug_assert!(unmapped.is_ok());
    }
}
