//! When a guest call must have ended, and what interrupts a guest that computes.
//! That is a thread of its own, since guests can keep every thread of the runtime
//! busy, with all timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

use crate::clock::Nanos;

/// A guest computes for this long at most before it lets others run and its
/// deadline is looked at.
pub const TICK: Duration = Duration::from_millis(10);

/// Starts the clock of these engines; it runs as long as one of them is in use.
pub fn start<'a>(engines: impl Iterator<Item = &'a Engine>) -> std::io::Result<()> {
    let mut engines: Vec<EngineWeak> = engines.map(Engine::weak).collect();
    let tick = move || {
        while !engines.is_empty() {
            engines.retain(|engine| {
                let engine = engine.upgrade();
                engine.iter().for_each(Engine::increment_epoch);
                engine.is_some()
            });
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
