//! What a memory begins as, for guests with much initial data.
//!
//! wasmtime writes the data into each new instance, or maps it copy-on-write. For a
//! guest with megabytes of it, such as an interpreter with its application, the first
//! copies too much, and the second has a page fault for each page that a call writes.
//! `memories` does better if it has the data itself: memory that was used once is put
//! back as it was, page by page, and no page table changes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What the memory of each instance holds at the beginning.
pub struct Image {
    file: File,
    /// The same bytes, to be read only.
    data: NonNull<u8>,
    bytes: usize,
}

// SAFETY: nobody writes to the data once the image is made.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// An image of `bytes` bytes: zeros, but for the segments, each with its offset.
    pub fn new(bytes: usize, segments: &[(usize, &[u8])]) -> std::io::Result<Image> {
        let file = File::from(memfd_create("wasm-serve initial data", MemfdFlags::CLOEXEC)?);
        file.set_len(bytes as u64)?;
        for (offset, segment) in segments {
            file.write_all_at(segment, *offset as u64)?;
        }
        // SAFETY: a new mapping, at a place that the system chooses.
        let data = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, &file, 0)? };
        let data = NonNull::new(data.cast::<u8>()).expect("the system maps nothing at address 0");
        Ok(Image { file, data, bytes })
    }

    pub fn content(&self) -> &[u8] {
        // SAFETY: mapped in this size until the image is dropped, and never written again.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }

    /// Maps a copy-on-write copy of it, readable and writable, in the place of what is
    /// mapped there now.
    ///
    /// # Safety
    /// As many bytes as the image has belong to the caller from `address` on.
    pub unsafe fn map_at(&self, address: *mut u8) -> std::io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the caller's promise.
        unsafe {
            mmap(address.cast(), self.bytes, ProtFlags::READ | ProtFlags::WRITE, flags, &self.file, 0)?;
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: it was mapped in this size, and what borrowed it is gone.
        let unmapped = unsafe { munmap(self.data.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
