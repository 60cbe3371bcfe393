//! The clock by which computing guests are interrupted. It is a thread of its
//! own, since guests can keep every thread of the runtime busy, with all timers.

use std::time::Duration;

use wasmtime::Engine;

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
