//! What the server allocates while an instance of a guest runs is charged to the instance's
//! account, until it is freed, by whichever thread: fields, bodies, buffers, tables, whichever
//! library makes them. So no resource has to be known to be bounded.
//!
//! The allocator writes an account in front of each allocation. It only counts; an account
//! that is overdrawn interrupts its guest, which `state` then stops or lets go on.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use wasmtime::EngineWeak;

/// Smaller allocations are not counted, so that most of them cost what they cost without
/// accounts. What is made of them is bounded by the number of an instance's resources and,
/// for fields, by the larger tables that hold them.
const COUNTED_BYTES_MIN: usize = 128;
/// Bytes in front of each counted allocation: a pointer, and what the alignment takes.
const HEADER_BYTES: usize = 16;
/// Each owner of an account counts as this many bytes, which no process has: the account
/// ends when nobody owns it and all that was charged to it is freed.
const OWNER: u64 = 1 << 48;

thread_local! {
    static CURRENT: Current = const { Current::none() };
}

/// What is charged in this thread at present. Most of what an instance allocates it frees soon
/// and in the same thread: so this is counted here, and reaches the account from time to time.
struct Current {
    /// Null for none.
    entry: Cell<*const Entry>,
    /// Bytes until the account has to be looked at.
    left: Cell<i64>,
    /// What was left when the account was last looked at.
    left_then: Cell<i64>,
}

impl Current {
    const fn none() -> Current {
        Current { entry: Cell::new(ptr::null()), left: Cell::new(0), left_then: Cell::new(0) }
    }

    fn replace(&self, new: &Current) -> Current {
        Current {
            entry: Cell::new(self.entry.replace(new.entry.get())),
            left: Cell::new(self.left.replace(new.left.get())),
            left_then: Cell::new(self.left_then.replace(new.left_then.get())),
        }
    }

    /// Counts bytes, or bytes less, for the entry that is current.
    fn count(&self, bytes: i64) {
        let left = self.left.get() - bytes;
        self.left.set(left);
        if left < 0 {
            self.look();
        }
    }

    /// What was counted here reaches the account, and the account says what is left.
    #[cold]
    fn look(&self) {
        // SAFETY: an entry is there while it is the current one.
        let Some(entry) = (unsafe { self.entry.get().as_ref() }) else { return };
        let used = self.left_then.get() - self.left.get();
        // Added as what it is modulo the numbers that there are, it may be less than nothing.
        entry.held.fetch_add(used as u64, Ordering::Relaxed);
        if entry.bytes() > entry.allowed.load(Ordering::Relaxed) {
            entry.interrupt();
        }
        self.begin(entry);
    }

    fn begin(&self, entry: &Entry) {
        let allowed = entry.allowed.load(Ordering::Relaxed).min(OWNER);
        let left = allowed as i64 - entry.bytes() as i64;
        self.entry.set(entry);
        self.left.set(left);
        self.left_then.set(left);
    }
}

/// What the server holds for one instance. Clones are of the same account.
pub struct Account(NonNull<Entry>);

struct Entry {
    /// Owners and bytes, see `OWNER`.
    held: AtomicU64,
    /// More bytes than this interrupt the guest.
    allowed: AtomicU64,
    engine: EngineWeak,
}

// SAFETY: an entry is changed by atomic operations only, and freed by the last one.
unsafe impl Send for Account {}
// SAFETY: as above.
unsafe impl Sync for Account {}

impl Account {
    /// An account of an instance that runs on `engine`, which is interrupted when there are
    /// more than `allowed` bytes on it.
    pub fn open(engine: EngineWeak, allowed: u64) -> Account {
        let entry =
            Entry { held: AtomicU64::new(OWNER), allowed: AtomicU64::new(allowed.min(OWNER)), engine };
        Account(NonNull::from(Box::leak(Box::new(entry))))
    }

    fn entry(&self) -> &Entry {
        // SAFETY: it stays as long as it has an owner.
        unsafe { self.0.as_ref() }
    }

    /// Bytes that are on it now.
    pub fn bytes(&self) -> u64 {
        self.look();
        self.entry().bytes()
    }

    /// More than was allowed has been charged since that was last said.
    pub fn is_overdrawn(&self) -> bool {
        self.entry().allowed.load(Ordering::Relaxed) == u64::MAX
    }

    /// Says anew how many bytes may be on it.
    pub fn allow(&self, bytes: u64) {
        self.entry().allowed.store(bytes.min(OWNER), Ordering::Relaxed);
        self.look();
    }

    /// What this thread has counted reaches it.
    fn look(&self) {
        CURRENT.with(|current| {
            if ptr::eq(current.entry.get(), self.entry()) {
                current.look();
            }
        });
    }

    /// A future that charges what is allocated while it runs. Futures of guest calls are
    /// large: it is not moved.
    pub fn charge<'a, F: Future>(&'a self, future: Pin<&'a mut F>) -> Charged<'a, F> {
        Charged { account: self, future }
    }
}

impl Clone for Account {
    fn clone(&self) -> Account {
        self.entry().held.fetch_add(OWNER, Ordering::Relaxed);
        Account(self.0)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // SAFETY: this owner's part.
        unsafe { Entry::subtract(self.0.as_ptr(), OWNER) };
    }
}

impl Entry {
    /// For a moment it may be less than nothing: when one thread has freed what the one that
    /// allocated it has not passed on yet.
    fn bytes(&self) -> u64 {
        let bytes = self.held.load(Ordering::Relaxed) % OWNER;
        if bytes < OWNER / 2 { bytes } else { 0 }
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.bytes() > self.allowed.load(Ordering::Relaxed) {
            self.interrupt();
        }
    }

    /// The guest looks at its account as soon as it runs again. Others of its worker look at
    /// theirs, too, and find nothing.
    #[cold]
    fn interrupt(&self) {
        self.allowed.store(u64::MAX, Ordering::Relaxed);
        if let Some(engine) = self.engine.upgrade() {
            engine.increment_epoch();
        }
    }

    /// # Safety
    /// As much was added before.
    unsafe fn subtract(this: *const Entry, amount: u64) {
        // SAFETY: it is there as long as there is something on it. Whoever takes the last of it
        // sees, by the order of the operations, all that others did with it.
        unsafe {
            if (*this).held.fetch_sub(amount, Ordering::AcqRel) == amount {
                drop(Box::from_raw(this.cast_mut()));
            }
        }
    }
}

/// What is allocated while this lives, in this thread, is on no account: it belongs to
/// the server, whichever guest was the cause.
pub struct OnNoAccount(Current);

impl OnNoAccount {
    pub fn begin() -> OnNoAccount {
        OnNoAccount(CURRENT.with(|current| current.replace(&Current::none())))
    }
}

impl Drop for OnNoAccount {
    fn drop(&mut self) {
        CURRENT.with(|current| {
            current.look();
            current.replace(&self.0);
        });
    }
}

/// See `Account::charge`.
pub struct Charged<'a, F> {
    account: &'a Account,
    future: Pin<&'a mut F>,
}

impl<F: Future> Future for Charged<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // One may run within another; what was there is put back.
        let _until_end = OnNoAccount::begin();
        CURRENT.with(|current| current.begin(self.account.entry()));
        self.future.as_mut().poll(cx)
    }
}

/// Gives what this thread has freed back to the system.
pub fn give_back() {
    // SAFETY: it frees nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

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
    CURRENT.with(|current| {
        let account = current.entry.get();
        // SAFETY: the caller's promise.
        unsafe { base.cast::<*const Entry>().write(account) };
        if !account.is_null() {
            current.count(bytes as i64);
        }
    });
    // SAFETY: the caller's promise.
    unsafe { base.add(HEADER_BYTES) }
}

/// Counts what was allocated for this account, or freed, in bytes more and bytes less.
///
/// # Safety
/// It is null, or as many bytes less are on it.
unsafe fn count(account: *const Entry, more: usize, less: usize) {
    if account.is_null() {
        return;
    }
    CURRENT.with(|current| {
        if ptr::eq(account, current.entry.get()) {
            return current.count(more as i64 - less as i64);
        }
        // SAFETY: the caller's promise; in this order it cannot end in between.
        unsafe {
            if more > 0 {
                (*account).add(more);
            }
            Entry::subtract(account, less as u64);
        }
    });
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
            let account = base.cast::<*const Entry>().read();
            self.0.dealloc(base, with_header(layout));
            count(account, 0, layout.size());
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
                    count(base.cast::<*const Entry>().read(), bytes, layout.size());
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
