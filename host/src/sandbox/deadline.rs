//! When a guest call must have ended, and what interrupts a guest that computes.
//! That is a thread of its own, since guests can keep every thread of the runtime
//! busy, with all timers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::{Engine, EngineWeak};

use super::imports::files::Held;
use crate::clock::Nanos;

/// A guest computes for this long at most before it lets others run and its
/// deadline is looked at.
pub const TICK: Duration = Duration::from_millis(10);

/// What moves the epoch of engines, each for as long as it is in use.
pub struct Epoch(Arc<Mutex<Vec<EngineWeak>>>);

impl Epoch {
    /// Starts the thread, which ends with the process.
    pub fn start() -> std::io::Result<Epoch> {
        let engines = Arc::new(Mutex::new(Vec::new()));
        let of_thread = engines.clone();
        let tick = move || {
            loop {
                move_all(&of_thread);
                std::thread::sleep(TICK);
            }
        };
        std::thread::Builder::new().name("epoch".into()).spawn(tick)?;
        Ok(Epoch(engines))
    }

    /// Also moves the epoch of this one.
    pub fn drive(&self, engine: &Engine) {
        self.0.lock().push(engine.weak());
    }
}

fn move_all(engines: &Mutex<Vec<EngineWeak>>) {
    engines.lock().retain(|engine| {
        let engine = engine.upgrade();
        engine.iter().for_each(Engine::increment_epoch);
        engine.is_some()
    });
}

/// When a guest call must have ended. It is shared between the call, whose guest
/// may be computing, and whoever moves it.
#[derive(Debug)]
pub struct Deadline {
    nanos: AtomicU64,
    /// What others may wait for, if the guest has used files.
    held: OnceLock<Held>,
}

impl Deadline {
    pub fn at(nanos: Nanos) -> Arc<Deadline> {
        Arc::new(Deadline { nanos: AtomicU64::new(nanos), held: OnceLock::new() })
    }

    pub fn nanos(&self) -> Nanos {
        self.nanos.load(Ordering::Relaxed)
    }

    pub fn move_to(&self, nanos: Nanos) {
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// Who looks at the deadline can see whether the guest holds locks.
    pub fn show(&self, held: Held) {
        let _ = self.held.set(held);
    }

    pub fn are_locks_held(&self) -> bool {
        self.held.get().is_some_and(Held::is_any)
    }
}
