//! When a guest call must have ended, and what interrupts a guest that computes.
//! That is a thread of its own, since guests can keep every thread of the runtime
//! busy, with all timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::Engine;

use crate::clock::Nanos;

/// A guest computes for this long at most before it lets others run and its
/// deadline is looked at.
pub const TICK: Duration = Duration::from_millis(10);

/// Starts the clock; it runs as long as the engine is in use.
pub fn start(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("epoch".into()).spawn(tick)?;
    Ok(())
}

/// When a guest call must have ended. It is shared between the call, whose guest
/// may be computing, and whoever moves it.
#[derive(Debug)]
pub struct Deadline(AtomicU64);

impl Deadline {
    pub fn at(nanos: Nanos) -> Arc<Deadline> {
        Arc::new(Deadline(AtomicU64::new(nanos)))
    }

    pub fn nanos(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }

    pub fn move_to(&self, nanos: Nanos) {
        self.0.store(nanos, Ordering::Relaxed);
    }
}
