//! Stacks for guests to run on, handed from one call to the next.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{Result, StackCreator, StackMemory, bail};

/// Room behind the end of a stack that traps. No frame of a guest is larger than
/// what its check of the stack's depth leaves, so one page is enough; it is as
/// large as the largest page of the architectures at hand.
const GUARD_BYTES: usize = 64 << 10;

/// Where guest calls take their stacks from.
pub struct Stacks(Arc<Shared>);

struct Shared {
    /// The one that was used last is taken first.
    free: Mutex<Vec<Mapping>>,
    taken: AtomicU32,
    taken_max: u32,
}

impl Stacks {
    /// Stacks of which `taken_max` are in use at once at most.
    pub fn new(taken_max: u32) -> Stacks {
        Stacks(Arc::new(Shared { free: Mutex::default(), taken: AtomicU32::new(0), taken_max }))
    }
}

// SAFETY: a stack is a mapping of its own with a guard at its low end.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> Result<Box<dyn StackMemory>> {
        if self.0.taken.fetch_add(1, Ordering::Relaxed) >= self.0.taken_max {
            self.0.taken.fetch_sub(1, Ordering::Relaxed);
            bail!("maximum number of {} stacks reached", self.0.taken_max);
        }
        let mut stack = Stack { mapping: None, shared: self.0.clone() };
        let free = self.0.free.lock().pop();
        stack.mapping = Some(match free {
            Some(mapping) => mapping,
            None => Mapping::new(size)?,
        });
        Ok(Box::new(stack))
    }
}

/// The stack of one guest call.
struct Stack {
    /// None only while it is made or dropped.
    mapping: Option<Mapping>,
    shared: Arc<Shared>,
}

impl Stack {
    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("the mapping leaves when the stack is dropped")
    }
}

// SAFETY: top, range and guard are those of the mapping, which lives as long.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.range().end as *mut u8
    }

    fn range(&self) -> Range<usize> {
        let mapping = self.mapping();
        mapping.base + GUARD_BYTES..mapping.base + mapping.bytes
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let base = self.mapping().base;
        base as *mut u8..(base + GUARD_BYTES) as *mut u8
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.shared.free.lock().extend(self.mapping.take());
        self.shared.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A guard, and the stack above it.
struct Mapping {
    base: usize,
    bytes: usize,
}

impl Mapping {
    fn new(stack_bytes: usize) -> std::io::Result<Mapping> {
        let bytes = stack_bytes + GUARD_BYTES;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at a place that the system chooses.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags)? };
        let mapping = Mapping { base: base as usize, bytes };
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: within the mapping that was just made.
        unsafe { mprotect(base.byte_add(GUARD_BYTES), stack_bytes, access)? };
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped in this size, and no call has it.
        let unmapped = unsafe { munmap(self.base as *mut _, self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
