//! What interrupts a guest that computes: a thread of its own, since guests can keep every
//! thread of the runtime busy, with all timers.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::{Engine, EngineWeak};

/// A guest computes for this long at most before it lets others run and its
/// deadline is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// What moves the epoch of engines, each for as long as it is in use.
pub(crate) struct Epoch(Arc<Mutex<Vec<EngineWeak>>>);

impl Epoch {
    /// Starts the thread, which ends with the process.
    pub(crate) fn start() -> std::io::Result<Epoch> {
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
    pub(crate) fn drive(&self, engine: &Engine) {
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
