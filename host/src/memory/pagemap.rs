//! Which pages were touched, as the system tells it.

use std::fs::File;
use std::ops::Range;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Finds the pages in a range of addresses that the system holds for this process alone,
/// whether in place or swapped out; none if it cannot tell (Linux can since 6.7).
pub(super) fn touched(pagemap: &File, addresses: Range<usize>, regions: &mut [Region]) -> Option<Touched> {
    let scan = PagemapScan(ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start: addresses.start as u64,
        end: addresses.end as u64,
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

/// What a scan found: so many regions, up to this address.
pub(super) struct Touched {
    pub regions: usize,
    pub end: u64,
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
pub(super) struct Region {
    pub start: u64,
    pub end: u64,
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
