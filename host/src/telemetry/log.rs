//! The log: one thread writes it, everyone else hands over whole lines. So no
//! thread that serves requests waits for a disk, and lines never mix. What waits
//! to be written has a bound: guests wait for room, the server's own lines are
//! dropped and counted.
//!
//! Each line shows whose it is. One of a guest begins with `guest: `; one of the server
//! with a time, a client's address, `unix`, `deferred id=` or `outbound`, or with four spaces if it
//! goes on with the one before. No guest can write a line without its mark, and no text
//! of a guest or a client within a line of the server can end it.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::destination::{Once, Target};
use super::lines::{Shown, server_line};
use super::rate_limit::{Allowance, Share};
use crate::clock;
use crate::memory::account::OnNoAccount;

/// How long the writer waits for further lines after the first.
const GATHERING: Duration = Duration::from_millis(2);
/// Guests wait while this many bytes are not yet written.
const GUEST_BYTES_MAX: usize = 1 << 20;
/// Their lines are dropped beyond this: some of those that were told that there is room
/// may write later.
const GUEST_BYTES_LIMIT: usize = 8 << 20;
/// The server's own lines are dropped beyond this. It is more, so that no flood of guests
/// silences the server.
const SERVER_BYTES_MAX: usize = 16 << 20;
/// What guests have lost is said once in this time.
const SAYING: Duration = Duration::from_secs(10);
/// How lines of guests are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestLines {
    /// As they are, without a mark. On a terminal they are escaped all the same.
    pub verbatim: bool,
    /// Bytes a second, 0 for no limit.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u64,
}

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
    shown: Shown,
    /// Told when the writer has ended.
    closed: Condvar,
    lines_dropped: AtomicU64,
    guest_lines_dropped: AtomicU64,
    guest_bytes_dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// None if guests may write what they like.
    allowance: Option<Allowance>,
    /// Of guests, and not yet said.
    dropped: Dropped,
    reopen: bool,
    close: bool,
    is_closed: bool,
}

#[derive(Clone, Copy, Default)]
struct Dropped {
    lines: u64,
    bytes: u64,
}

impl Log {
    /// Opens `file` for appending, or takes standard error, and starts the
    /// writer.
    pub fn open(file: Option<&Path>, guests: GuestLines) -> Result<Log> {
        let target = match file {
            Some(path) => Target::open(path)
                .with_context(|| format!("--logto {}: cannot be written", path.display()))?,
            None => Target::StandardError,
        };
        let shown = match guests.verbatim {
            false => Shown::Marked,
            true if file.is_none() && io::stderr().is_terminal() => Shown::Escaped,
            true => Shown::Verbatim,
        };
        let allowance = Allowance::new(guests.rate, guests.burst, clock::coarse());
        let allowance = (guests.rate > 0).then_some(allowance);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { allowance, ..State::default() }),
            work: Condvar::new(),
            room: Arc::new(Notify::new()),
            shown,
            closed: Condvar::new(),
            lines_dropped: AtomicU64::new(0),
            guest_lines_dropped: AtomicU64::new(0),
            guest_bytes_dropped: AtomicU64::new(0),
        });
        let for_writer = shared.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write_all(&for_writer, target))?;
        Ok(Log { shared })
    }

    /// A line of the server's own, with the time. Parts of it may come from a guest.
    pub fn server(&self, message: impl std::fmt::Display) {
        self.line(&server_line(message));
    }

    /// A whole line of the server's own, which ends in a line feed and has nothing in it
    /// that is to be escaped.
    pub fn line(&self, line: &[u8]) {
        let mut state = self.shared.state.lock();
        if state.waiting.len() + line.len() > SERVER_BYTES_MAX {
            self.shared.lines_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.append(&mut state, line);
    }

    /// Whole lines of a guest, which end in a line feed. Ask `has_room` before.
    pub fn guest(&self, share: &mut Share, lines: &[u8]) {
        self.append_allowed(share, &self.shared.shown.lines(lines));
    }

    /// A whole line of the server's own of which a guest can cause any number. It counts as what
    /// guests write.
    pub fn line_of_guest(&self, share: &mut Share, line: &[u8]) {
        self.append_allowed(share, line);
    }

    fn append_allowed(&self, share: &mut Share, lines: &[u8]) {
        let mut state = self.shared.state.lock();
        let has_room = state.waiting.len() < GUEST_BYTES_LIMIT;
        let is_allowed = |allowance: &mut Allowance| allowance.take(share, lines.len(), clock::coarse());
        if has_room && state.allowance.as_mut().is_none_or(is_allowed) {
            self.append(&mut state, lines);
        } else {
            self.drop_lines(&mut state, lines);
        }
    }

    fn drop_lines(&self, state: &mut State, lines: &[u8]) {
        let nothing_to_say = state.dropped.lines == 0;
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        state.dropped.lines += count;
        state.dropped.bytes += lines.len() as u64;
        self.shared.guest_lines_dropped.fetch_add(count, Ordering::Relaxed);
        self.shared.guest_bytes_dropped.fetch_add(lines.len() as u64, Ordering::Relaxed);
        if nothing_to_say {
            self.shared.work.notify_one();
        }
    }

    fn append(&self, state: &mut State, lines: &[u8]) {
        let _for_the_server = OnNoAccount::begin();
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

    /// Lines of guests that were more than they may write.
    pub fn guest_lines_dropped(&self) -> u64 {
        self.shared.guest_lines_dropped.load(Ordering::Relaxed)
    }

    /// What these lines would have taken.
    pub fn guest_bytes_dropped(&self) -> u64 {
        self.shared.guest_bytes_dropped.load(Ordering::Relaxed)
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

/// The writer's thread, until `close`.
fn write_all(shared: &Shared, mut target: Target) {
    let mut lines = Vec::new();
    let mut writes = Once::new("the log cannot be written, lines are lost");
    let mut reopens = Once::new("the log file cannot be opened again, the old one is used");
    let mut is_to_reopen = false;
    let mut say_next = Instant::now();
    loop {
        let (is_closing, dropped) = {
            let mut state = shared.gathered(say_next);
            std::mem::swap(&mut state.waiting, &mut lines);
            is_to_reopen |= std::mem::take(&mut state.reopen);
            let is_to_say = state.close || Instant::now() >= say_next;
            let dropped = if is_to_say { std::mem::take(&mut state.dropped) } else { Dropped::default() };
            (state.close, dropped)
        };
        if dropped.lines > 0 {
            say_next = Instant::now() + SAYING;
            lines.extend(dropped.line());
        }
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

impl Shared {
    /// Waits for something to do, and for what else comes soon; at `say_next` there is
    /// something to say if lines were dropped.
    fn gathered(&self, say_next: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.reopen && !state.close {
            if state.dropped.lines == 0 {
                self.work.wait(&mut state);
            } else if self.work.wait_until(&mut state, say_next).timed_out() {
                break;
            }
        }
        // One write for all lines of this time, and one waking of this thread.
        let until = Instant::now() + GATHERING;
        while !state.reopen && !state.close {
            if self.work.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state
    }
}

impl Dropped {
    /// What is said of it.
    fn line(self) -> Vec<u8> {
        server_line(format_args!(
            "dropped {} lines of guests, {} bytes: more than --log-rate and --log-burst allow, or than can be written",
            self.lines, self.bytes
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a log is with these lines of a guest, and a line of the server behind them.
    fn written(name: &str, guests: GuestLines, lines: &[&[u8]]) -> String {
        let path = std::env::temp_dir().join(format!("wasm-serve-log-{name}-{}", std::process::id()));
        let log = Log::open(Some(&path), guests).unwrap();
        let mut share = Share::default();
        lines.iter().for_each(|lines| log.guest(&mut share, lines));
        log.server("end");
        log.close(Duration::from_secs(60));
        let written = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        written
    }

    #[test]
    fn each_line_of_a_guest_is_marked_and_none_of_the_server_is() {
        let forged = b"127.0.0.1 - - [\n\nguest: a\r2026 x\x1b[2J\n";
        let log = written("marked", GuestLines::default(), &[forged, b"b\n"]);
        let lines: Vec<&str> = log.lines().collect();
        let guest = ["guest: 127.0.0.1 - - [", "guest: ", "guest: guest: a\\x0d2026 x\\x1b[2J", "guest: b"];
        assert_eq!(lines[..4], guest);
        assert!(lines.len() == 5 && !lines[4].starts_with("guest: "), "{log}");
    }

    #[test]
    fn bytes_stay_as_they_are_if_wanted() {
        let log =
            written("verbatim", GuestLines { verbatim: true, ..GuestLines::default() }, &[b"a\x1b[2J\r\n"]);
        assert!(log.starts_with("a\x1b[2J\r\n"), "{log}");
    }

    #[test]
    fn what_is_dropped_is_said() {
        let limited = GuestLines { rate: 1, burst: 1000, ..GuestLines::default() };
        let log = written("dropped", limited, &[&b"a\n".repeat(50), &b"b\n".repeat(50)]);
        assert_eq!(log.matches("guest: a\n").count(), 50);
        assert!(!log.contains("guest: b\n"), "{log}");
        assert!(log.contains(" dropped 50 lines of guests, 450 bytes: more than --log-rate"), "{log}");
    }

    #[test]
    fn lines_said_before_close_are_written() {
        let folder = std::env::temp_dir().join(format!("wasm-serve-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("log");
        let log = Log::open(Some(&path), GuestLines::default()).unwrap();
        for number in 0..1000 {
            log.guest(&mut Share::default(), format!("{number}\n").as_bytes());
        }
        log.close(Duration::from_secs(60));
        let expected: String = (0..1000).map(|number| format!("guest: {number}\n")).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
