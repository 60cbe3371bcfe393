//! What a person reads at a terminal.

pub(crate) mod escape;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// A message on standard error, where a guest's names may be in it. That nobody may be
/// there to read it is no reason to fail.
pub fn say(message: impl std::fmt::Display) {
    let _ = io::stderr().write_all(&escape::message(&message.to_string()));
}

/// Does something that takes seconds, and says so before and after. On a terminal the
/// seconds are counted meanwhile.
pub(crate) fn say_while<T, E>(
    what: impl std::fmt::Display,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let start = Instant::now();
    let is_terminal = io::stderr().is_terminal();
    say(&what);
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        if is_terminal {
            scope.spawn(move || {
                while waiting.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                    let _ = write!(io::stderr(), "\r{} s", start.elapsed().as_secs());
                }
            });
        }
        let result = work();
        drop(done);
        result
    });
    if is_terminal {
        let _ = write!(io::stderr(), "\r");
    }
    let end = if result.is_ok() { "It took" } else { "It failed after" };
    say(format_args!("{end} {:.1} s", start.elapsed().as_secs_f64()));
    result
}
