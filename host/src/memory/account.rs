//! What the server allocates while an instance of a guest runs is charged to the instance's
//! account, until it is freed, by whichever thread: fields, bodies, buffers, tables, whichever
//! library makes them. So no resource has to be known to be bounded.
//!
//! The allocator (`charging`) says what is allocated and freed. An account only counts; one
//! that is overdrawn interrupts its guest, which `state` then stops or lets go on.

use std::cell::Cell;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use wasmtime::EngineWeak;

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

/// Whose an allocation is: what is in front of it.
#[derive(Clone, Copy)]
pub struct Mark(*const Entry);

/// Charges what was allocated just now to the account that is current, if there is one.
#[inline]
pub fn charge(bytes: usize) -> Mark {
    CURRENT.with(|current| {
        let entry = current.entry.get();
        if !entry.is_null() {
            current.count(bytes as i64);
        }
        Mark(entry)
    })
}

impl Mark {
    /// Counts what was allocated for this account, or freed, in bytes more and bytes less.
    ///
    /// # Safety
    /// As many bytes less are on it.
    #[inline]
    pub unsafe fn count(self, more: usize, less: usize) {
        let Mark(entry) = self;
        if entry.is_null() {
            return;
        }
        CURRENT.with(|current| {
            if ptr::eq(entry, current.entry.get()) {
                return current.count(more as i64 - less as i64);
            }
            // SAFETY: the caller's promise; in this order it cannot end in between.
            unsafe {
                if more > 0 {
                    (*entry).add(more);
                }
                Entry::subtract(entry, less as u64);
            }
        });
    }
}

/// Gives what this thread has freed back to the system.
pub fn give_back() {
    // SAFETY: it frees nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
