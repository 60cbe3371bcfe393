//! The allocator: mimalloc, which is asked for an alignment only where it does not give
//! that by itself. To ask takes a longer way, and more memory for sizes from a kilobyte on.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// Of a block that is at least as large (`MI_MAX_ALIGN_SIZE`); a smaller one has that of a
/// pointer.
const ALIGNMENT: usize = 16;

pub struct Mimalloc;

fn is_aligned_anyway(bytes: usize, alignment: usize) -> bool {
    alignment <= align_of::<usize>() || (alignment <= ALIGNMENT && bytes >= ALIGNMENT)
}

// SAFETY: mimalloc gives memory of the size and alignment that it is asked for, or null.
unsafe impl GlobalAlloc for Mimalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (bytes, alignment) = (layout.size(), layout.align());
        // SAFETY: any size will do, and the alignment is a power of two.
        let address = unsafe {
            match is_aligned_anyway(bytes, alignment) {
                true => mi_malloc(bytes),
                false => mi_malloc_aligned(bytes, alignment),
            }
        };
        address.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (bytes, alignment) = (layout.size(), layout.align());
        // SAFETY: as above.
        let address = unsafe {
            match is_aligned_anyway(bytes, alignment) {
                true => mi_zalloc(bytes),
                false => mi_zalloc_aligned(bytes, alignment),
            }
        };
        address.cast()
    }

    unsafe fn dealloc(&self, address: *mut u8, _layout: Layout) {
        // SAFETY: the caller's promise: it is one of the above.
        unsafe { mi_free(address.cast()) };
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        let address = unsafe {
            match is_aligned_anyway(bytes, layout.align()) {
                true => mi_realloc(address.cast(), bytes),
                false => mi_realloc_aligned(address.cast(), bytes, layout.align()),
            }
        };
        address.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_every_size_has_its_alignment_and_keeps_its_content() {
        let mut held = Vec::new();
        for alignment in [1, 2, 4, 8, 16, 32, 64, 4096] {
            for bytes in (1..600).chain([1000, 1040, 3000, 5000, 70_000, 300_001, 5 << 20]) {
                let layout = Layout::from_size_align(bytes, alignment).unwrap();
                let larger = bytes + bytes / 3 + 1;
                // SAFETY: within the sizes that were asked for.
                unsafe {
                    let zeros = Mimalloc.alloc_zeroed(layout);
                    assert!((zeros as usize).is_multiple_of(alignment));
                    assert!(std::slice::from_raw_parts(zeros, bytes).iter().all(|byte| *byte == 0));
                    let address = Mimalloc.alloc(layout);
                    assert!((address as usize).is_multiple_of(alignment), "{bytes} {alignment}");
                    address.write_bytes(7, bytes);
                    let address = Mimalloc.realloc(address, layout, larger);
                    assert!((address as usize).is_multiple_of(alignment), "{larger} {alignment}");
                    assert!(std::slice::from_raw_parts(address, bytes).iter().all(|byte| *byte == 7));
                    held.push((zeros, layout));
                    held.push((address, Layout::from_size_align(larger, alignment).unwrap()));
                }
            }
        }
        for (address, layout) in held {
            // SAFETY: it was allocated so.
            unsafe { Mimalloc.dealloc(address, layout) };
        }
    }
}
