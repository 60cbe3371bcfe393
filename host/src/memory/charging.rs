//! An allocator that charges accounts: it writes whose an allocation is in front of it.

use std::alloc::{GlobalAlloc, Layout};

use super::account::{self, Mark};

/// Smaller allocations are not counted, so that most of them cost what they cost without
/// accounts. What is made of them is bounded by the number of an instance's resources and,
/// for fields, by the larger tables that hold them.
const COUNTED_BYTES_MIN: usize = 128;
/// Bytes in front of each counted allocation: a pointer, and what the alignment takes.
const HEADER_BYTES: usize = 16;
/// An allocator that charges accounts.
pub struct Charging<A>(pub A);

/// What is not counted has no header. So many bytes that one could make it too many are
/// refused by any allocator.
fn is_counted(layout: Layout) -> bool {
    (COUNTED_BYTES_MIN..isize::MAX as usize / 2).contains(&layout.size()) && layout.align() <= HEADER_BYTES
}

/// The layout, of what is counted, with room for the header.
fn with_header(layout: Layout) -> Layout {
    // SAFETY: the size is still one that can be, and the alignment a power of two.
    unsafe { Layout::from_size_align_unchecked(layout.size() + HEADER_BYTES, HEADER_BYTES) }
}

/// Fills in the header of an allocation, unless that failed.
///
/// # Safety
/// `base` is null, or has room for a header and `bytes` more.
unsafe fn begin(base: *mut u8, bytes: usize) -> *mut u8 {
    if base.is_null() {
        return base;
    }
    // SAFETY: the caller's promise.
    unsafe {
        base.cast::<Mark>().write(account::charge(bytes));
        base.add(HEADER_BYTES)
    }
}

// SAFETY: each allocation is one of the inner allocator; of those that are counted, which the
// layout alone decides, the caller gets what is behind the header, with the alignment of both.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Charging<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, for a layout that is not smaller.
        unsafe {
            match is_counted(layout) {
                false => self.0.alloc(layout),
                true => begin(self.0.alloc(with_header(layout)), layout.size()),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe {
            match is_counted(layout) {
                false => self.0.alloc_zeroed(layout),
                true => begin(self.0.alloc_zeroed(with_header(layout)), layout.size()),
            }
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise: it was allocated with this layout, so it has a header if
        // that says so.
        unsafe {
            if !is_counted(layout) {
                return self.0.dealloc(address, layout);
            }
            let base = address.sub(HEADER_BYTES);
            let mark = base.cast::<Mark>().read();
            self.0.dealloc(base, with_header(layout));
            mark.count(0, layout.size());
        }
    }

    /// Who began an allocation has what it becomes.
    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promises, and those of `alloc` and `dealloc`.
        unsafe {
            let new = Layout::from_size_align_unchecked(bytes, layout.align());
            match (is_counted(layout), is_counted(new)) {
                (false, false) => self.0.realloc(address, layout, bytes),
                (true, true) => {
                    let base = address.sub(HEADER_BYTES);
                    let base = self.0.realloc(base, with_header(layout), bytes + HEADER_BYTES);
                    if base.is_null() {
                        return base;
                    }
                    base.cast::<Mark>().read().count(bytes, layout.size());
                    base.add(HEADER_BYTES)
                }
                _ => {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(address, layout.size().min(bytes));
                        self.dealloc(address, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::super::account::{Account, OnNoAccount};
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Charging<System> = Charging(System);

    fn account(allowed: u64) -> (wasmtime::Engine, Account) {
        let engine = wasmtime::Engine::default();
        let account = Account::open(engine.weak(), allowed);
        (engine, account)
    }

    fn charged<T>(account: &Account, make: impl FnOnce() -> T) -> T {
        futures::FutureExt::now_or_never(account.charge(std::pin::pin!(async { make() }))).unwrap()
    }

    #[test]
    fn what_is_allocated_meanwhile_is_charged_until_it_is_freed_anywhere() {
        let (_engine, account) = account(u64::MAX);
        let before = vec![0u8; 5000];
        let mut held = charged(&account, || {
            drop(before);
            vec![0u8; 1000]
        });
        assert_eq!(account.bytes(), 1000);
        held.reserve_exact(9000);
        assert_eq!(account.bytes(), held.capacity() as u64);
        held.truncate(3);
        held.shrink_to_fit();
        assert_eq!(account.bytes(), 0, "it is too small to be counted");
        let other = charged(&account, || vec![0u8; 2000]);
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn what_belongs_to_the_server_is_on_no_account() {
        let (_engine, account) = account(u64::MAX);
        let held = charged(&account, || {
            let for_the_server = OnNoAccount::begin();
            let held = vec![0u8; 1000];
            drop(for_the_server);
            (held, vec![0u8; 500])
        });
        assert_eq!(account.bytes(), 500);
        drop(held);
    }

    #[test]
    fn an_account_outlives_its_owner_as_long_as_something_is_on_it() {
        let (_engine, account) = account(u64::MAX);
        let held = charged(&account, || vec![0u8; 1000]);
        drop(account);
        drop(held);
    }

    #[test]
    fn one_that_is_overdrawn_says_so_until_more_is_allowed() {
        let (_engine, account) = account(1000);
        let held = charged(&account, || vec![0u8; 1000]);
        assert!(!account.is_overdrawn());
        let more = charged(&account, || vec![0u8; 128]);
        assert!(account.is_overdrawn());
        account.allow(2000);
        assert!(!account.is_overdrawn());
        drop((held, more));
    }

    #[test]
    fn memory_of_any_size_and_alignment_keeps_its_content() {
        let (_engine, account) = account(u64::MAX);
        charged(&account, || {
            for align in [1, 8, 16, 64, 4096] {
                for (bytes, resized) in [(1, 127), (127, 128), (128, 129), (200, 60), (5000, 100_000)] {
                    let layout = Layout::from_size_align(bytes, align).unwrap();
                    // SAFETY: within the sizes that were asked for.
                    unsafe {
                        let address = ALLOCATOR.alloc(layout);
                        assert!((address as usize).is_multiple_of(align));
                        address.write_bytes(7, bytes);
                        let address = ALLOCATOR.realloc(address, layout, resized);
                        assert!((address as usize).is_multiple_of(align));
                        let kept = std::slice::from_raw_parts(address, bytes.min(resized));
                        assert!(kept.iter().all(|byte| *byte == 7));
                        ALLOCATOR.dealloc(address, Layout::from_size_align(resized, align).unwrap());
                    }
                }
            }
        });
        assert_eq!(account.bytes(), 0);
    }
}
