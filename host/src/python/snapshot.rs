//! What is in an instance's memory becomes the component with which other instances begin.
//!
//! CPython counts the references to each object in the object, so a request would write to every page
//! that has a function, a class or a text which it uses. Of those that last as long as an instance, CPython's own
//! way is not to count: its immortal objects (PEP 683). Here what is in memory of these kinds becomes so.

use anyhow::Result;
use wasmtime::component::{ComponentNamedList, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::instance::Instance;

/// Where there are 32 bits for it, CPython 3.14 does not count references to an object with at least the first, and
/// sets the second (`Include/refcount.h`).
const IMMORTAL_MIN: i32 = 1 << 30;
const IMMORTAL: i32 = 5 << 28;

/// Applications of about a size begin with as much memory, and so have the same code.
const MEMORY_STEP_BYTES: usize = 4 << 20;

/// The component of `interpreter`, with what is in memory of an instance.
pub(super) async fn component(interpreter: &[u8], instance: Instance) -> Result<Vec<u8>> {
    let wizer = Wizer::new();
    let (written, _) = wizer.instrument_component(interpreter)?;
    Ok(wizer.snapshot_component(&written, &mut State { instance, memory: None }).await?)
}

/// The memory and the variables of an instance, by exports that were added for this. That they are there,
/// and do not fail, is known of the interpreter.
struct State {
    instance: Instance,
    /// Once it was read.
    memory: Option<Vec<u8>>,
}

impl State {
    async fn read<R: Lift + 'static>(&mut self, interface: &str, name: &str) -> R
    where
        (R,): ComponentNamedList,
    {
        let function = self.instance.function::<(), (R,)>(Some(interface), name).expect("was added");
        function.call_async(&mut self.instance.store, ()).await.expect("only reads").0
    }

    /// The memory, with objects that have become immortal. What they are found with is not in it.
    async fn memory(&mut self, interface: &str, name: &str) -> Vec<u8> {
        let list = self.read::<WasmList<u8>>(interface, name).await;
        let mut memory = list.as_le_slice(&self.instance.store).to_vec();
        for place in self.instance.lasting().await.expect("only looks") {
            make_immortal(&mut memory, place);
        }
        memory.resize(memory.len().next_multiple_of(MEMORY_STEP_BYTES), 0);
        memory
    }
}

impl ComponentInstanceState for State {
    async fn call_func_ret_list_u8(
        &mut self,
        interface: &str,
        name: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        if self.memory.is_none() {
            self.memory = Some(self.memory(interface, name).await);
        }
        contents(self.memory.as_deref().unwrap_or_default());
    }

    async fn call_func_ret_s32(&mut self, interface: &str, name: &str) -> i32 {
        self.read(interface, name).await
    }

    async fn call_func_ret_s64(&mut self, interface: &str, name: &str) -> i64 {
        self.read(interface, name).await
    }

    async fn call_func_ret_f32(&mut self, interface: &str, name: &str) -> u32 {
        self.read::<f32>(interface, name).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, name: &str) -> u64 {
        self.read::<f64>(interface, name).await.to_bits()
    }
}

/// An object begins with the count of its references.
fn make_immortal(memory: &mut [u8], object: u32) {
    let Some(count) = memory.get_mut(object as usize..).and_then(|rest| rest.first_chunk_mut()) else {
        return;
    };
    if (1..IMMORTAL_MIN).contains(&i32::from_le_bytes(*count)) {
        *count = IMMORTAL.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_no_longer_and_nothing_else_changes() {
        let counts = [1, IMMORTAL_MIN - 1, 0, -1, IMMORTAL_MIN, 7 << 28];
        let mut memory = counts.map(i32::to_le_bytes).concat();
        for place in [0, 4, 8, 12, 16, 20, 21, 24, u32::MAX] {
            make_immortal(&mut memory, place);
        }
        let after: Vec<_> =
            memory.chunks(4).map(|count| i32::from_le_bytes(count.try_into().unwrap())).collect();
        assert_eq!(after, [IMMORTAL, IMMORTAL, 0, -1, IMMORTAL_MIN, 7 << 28]);
    }
}
