//! The log: one thread writes it, everyone else hands over whole lines. So no
//! thread that serves requests waits for a disk, and lines never mix. What waits
//! to be written has a bound: guests wait for room, the server's own lines are
//! dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// How long the writer waits for further lines after the first.
const GATHERING: Duration = Duration::from_millis(2);
/// Guests wait while this many bytes are not yet written.
const GUEST_BYTES_MAX: usize = 1 << 20;
/// The server's own lines are dropped beyond this.
const SERVER_BYTES_MAX: usize = 8 << 20;

/// The log of a server. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when there is something to do for the writer.
    work: Condvar,
    /// Told when there is room for guests again.
    room: Arc<Notify>,
    /// Control characters of guests are escaped.
    escape: bool,
    /// Told when the writer has ended.
    closed: Condvar,
    lines_dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    reopen: bool,
    close: bool,
    is_closed: bool,
}

impl Log {
    /// Opens `file` for appending, or takes standard error, and starts the
    /// writer.
    pub fn open(file: Option<&Path>) -> Result<Log> {
        let target = match file {
            Some(path) => Target::open(path)
                .with_context(|| format!("--logto {}: cannot be written", path.display()))?,
            None => Target::StandardError,
        };
        let escape = file.is_none() && io::stderr().is_terminal();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Arc::new(Notify::new()),
            escape,
            closed: Condvar::new(),
            lines_dropped: AtomicU64::new(0),
        });
        let for_writer = shared.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write_all(&for_writer, target))?;
        Ok(Log { shared })
    }

    /// A line of the server's own, with the time. Further lines of the message are
    /// indented and control characters escaped: parts of it may come from a guest,
    /// which must not forge a line of the log.
    pub fn server(&self, message: impl std::fmt::Display) {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let message = message.to_string().replace('\n', "\n    ");
        self.line(&escape(format!("{time} {message}\n").as_bytes()));
    }

    /// A whole line of the server's own, which ends in a line feed.
    pub fn line(&self, line: &[u8]) {
        let mut state = self.shared.state.lock();
        if state.waiting.len() + line.len() > SERVER_BYTES_MAX {
            self.shared.lines_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.append(&mut state, line);
    }

    /// Whole lines of a guest, which end in a line feed. Ask `has_room` before.
    pub fn guest(&self, lines: &[u8]) {
        let mut state = self.shared.state.lock();
        if self.shared.escape {
            self.append(&mut state, &escape(lines));
        } else {
            self.append(&mut state, lines);
        }
    }

    fn append(&self, state: &mut State, lines: &[u8]) {
        let writer_sleeps = state.waiting.is_empty();
        state.waiting.extend_from_slice(lines);
        if writer_sleeps {
            self.shared.work.notify_one();
        }
    }

    /// Guests may write.
    pub fn has_room(&self) -> bool {
        self.shared.state.lock().waiting.len() < GUEST_BYTES_MAX
    }

    /// Resolves when `has_room` may have become true since this call.
    pub fn room(&self) -> tokio::sync::futures::OwnedNotified {
        self.shared.room.clone().notified_owned()
    }

    /// Opens the log file again, after it was moved away.
    pub fn reopen(&self) {
        self.shared.state.lock().reopen = true;
        self.shared.work.notify_one();
    }

    /// Lines of the server's own that found no room.
    pub fn lines_dropped(&self) -> u64 {
        self.shared.lines_dropped.load(Ordering::Relaxed)
    }

    /// Writes what waits and ends the writer, unless that takes longer than
    /// `time`: whoever reads the log may stand still.
    pub fn close(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.shared.state.lock();
        state.close = true;
        self.shared.work.notify_one();
        while !state.is_closed {
            if self.shared.closed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}

enum Target {
    StandardError,
    File { path: PathBuf, file: File },
}

impl Target {
    fn open(path: &Path) -> io::Result<Target> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Target::File { path: path.to_owned(), file })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::StandardError => io::stderr().write_all(bytes),
            Target::File { file, .. } => file.write_all(bytes),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { path, .. } = self {
            *self = Target::open(path)?;
        }
        Ok(())
    }
}

/// The writer's thread, until `close`.
fn write_all(shared: &Shared, mut target: Target) {
    let mut lines = Vec::new();
    let mut writes = Once::new("the log cannot be written, lines are lost");
    let mut reopens = Once::new("the log file cannot be opened again, the old one is used");
    let mut is_to_reopen = false;
    loop {
        let is_closing = {
            let mut state = shared.state.lock();
            while state.waiting.is_empty() && !state.reopen && !state.close {
                shared.work.wait(&mut state);
            }
            // One write for all lines of this time, and one waking of this thread.
            let until = Instant::now() + GATHERING;
            while !state.reopen && !state.close {
                if shared.work.wait_until(&mut state, until).timed_out() {
                    break;
                }
            }
            std::mem::swap(&mut state.waiting, &mut lines);
            is_to_reopen |= std::mem::take(&mut state.reopen);
            state.close
        };
        shared.room.notify_waiters();
        // What was said before the log file was moved away belongs to the old
        // file.
        if !lines.is_empty() {
            writes.note(target.write(&lines));
        }
        if is_to_reopen {
            is_to_reopen = !reopens.note(target.reopen());
        }
        lines.clear();
        // One flood must not hold its memory for ever.
        lines.shrink_to(GUEST_BYTES_MAX);
        let mut state = shared.state.lock();
        if is_closing && state.waiting.is_empty() {
            state.is_closed = true;
            shared.closed.notify_all();
            return;
        }
    }
}

/// Says that something fails once, not each time, and when it works again.
struct Once {
    what: &'static str,
    has_failed: bool,
}

impl Once {
    fn new(what: &'static str) -> Once {
        Once { what, has_failed: false }
    }

    /// True if it worked.
    fn note(&mut self, result: io::Result<()>) -> bool {
        match &result {
            Err(error) if !self.has_failed => say(format_args!("wasm-serve: {}: {error}", self.what)),
            Ok(()) if self.has_failed => say(format_args!("wasm-serve: no more: {}", self.what)),
            _ => {}
        }
        self.has_failed = result.is_err();
        !self.has_failed
    }
}

/// A line on standard error, where a guest's names may be in it. That nobody may be
/// there to read it is no reason to fail.
pub fn say(line: impl std::fmt::Display) {
    let _ = io::stderr().write_all(&escape(format!("{line}\n").as_bytes()));
}

/// Does something that takes seconds, and says so before and after. On a terminal the
/// seconds are counted meanwhile.
pub fn say_while<T, E>(what: impl std::fmt::Display, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
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

/// `lines` with each control character but tab and line feed written as `\xNN`,
/// so that a guest cannot steer the operator's terminal.
pub fn escape(lines: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(lines.len());
    for &byte in lines {
        match byte {
            b'\n' | b'\t' => escaped.push(byte),
            // C1 controls come as 0xC2 0x80 to 0xC2 0x9F in UTF-8.
            0..=0x1f | 0x7f..=0x9f if byte < 0x80 || escaped.last() == Some(&0xc2) => {
                if byte >= 0x80 {
                    escaped.pop();
                }
                escaped.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
            _ => escaped.push(byte),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        assert_eq!(escape(b"a\tb\n"), b"a\tb\n");
        assert_eq!(escape(b"\x1b[2J\r\x7f\n"), b"\\x1b[2J\\x0d\\x7f\n");
        assert_eq!(escape("\u{9b}2J é ü\n".as_bytes()), "\\x9b2J é ü\n".as_bytes());
    }

    #[test]
    fn lines_said_before_close_are_written() {
        let folder = std::env::temp_dir().join(format!("wasm-serve-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("log");
        let log = Log::open(Some(&path)).unwrap();
        for number in 0..1000 {
            log.guest(format!("{number}\n").as_bytes());
        }
        log.close(Duration::from_secs(60));
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
