//! `wasi:cli/stdout` and `stderr`: what a guest writes goes to the log, whole
//! lines at a time, so that lines of two cores never mix.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::futures::OwnedNotified;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::telemetry::log::Log;
use crate::telemetry::rate_limit::Share;

/// A longer line is cut into pieces.
const LINE_BYTES_MAX: usize = 64 << 10;
/// When all streams of an output may together write so much without asking again, though the
/// log may be full by then, each further one may write a little.
const ALLOWED_MAX: usize = 16 * LINE_BYTES_MAX;
const A_LITTLE: usize = 1 << 10;

/// What an instance writes to.
pub(crate) struct Outputs {
    pub(super) stdout: Output,
    pub(super) stderr: Output,
}

impl Outputs {
    pub(super) fn new(log: &Log) -> Outputs {
        Outputs { stdout: Output::new(log.clone()), stderr: Output::new(log.clone()) }
    }

    pub(super) fn finish_lines(&self) {
        self.stdout.finish_line();
        self.stderr.finish_line();
    }
}

/// One output of one instance. Clones write to the same lines.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<Lines>>);

struct Lines {
    log: Log,
    /// What the call under way has written to the log of late.
    share: Share,
    /// What came after the last line feed.
    unfinished: Vec<u8>,
    /// What all streams may write without asking again.
    allowed: usize,
}

impl Output {
    pub(crate) fn new(log: Log) -> Output {
        Output(Arc::new(Mutex::new(Lines {
            log,
            share: Share::default(),
            unfinished: Vec::new(),
            allowed: 0,
        })))
    }

    /// Ends the last line, if it is unfinished. Called when a guest call ends.
    pub(crate) fn finish_line(&self) {
        let mut lines = self.0.lock();
        lines.finish();
        // The next call of this instance has written nothing yet.
        lines.share = Share::default();
    }

    fn log(&self) -> Log {
        self.0.lock().log.clone()
    }
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n').map(|last| last + 1) else {
            self.unfinished.extend_from_slice(bytes);
            return self.cut_long_line();
        };
        let (lines, rest) = bytes.split_at(end);
        if self.unfinished.is_empty() && lines.len() <= LINE_BYTES_MAX {
            self.log.guest(&mut self.share, lines);
        } else {
            self.unfinished.extend_from_slice(lines);
            let lines = std::mem::take(&mut self.unfinished);
            self.log.guest(&mut self.share, &cut_long_lines(&lines));
        }
        self.unfinished.extend_from_slice(rest);
        self.cut_long_line();
    }

    fn cut_long_line(&mut self) {
        while self.unfinished.len() > LINE_BYTES_MAX {
            let rest = self.unfinished.split_off(first_piece(&self.unfinished).len());
            self.finish();
            self.unfinished = rest;
        }
    }

    fn finish(&mut self) {
        if !self.unfinished.is_empty() {
            self.unfinished.push(b'\n');
            self.log.guest(&mut self.share, &self.unfinished);
            self.unfinished.clear();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The beginning of a longer line, with all bytes of its last character, if they are one.
fn first_piece(line: &[u8]) -> &[u8] {
    const CHARACTER_BYTES_MAX: usize = 4;
    let Some((piece, rest)) = line.split_at_checked(LINE_BYTES_MAX) else { return line };
    let is_within = |byte: &u8| byte & 0xc0 == 0x80;
    let within = piece.iter().rev().take_while(|byte| is_within(byte)).count();
    match rest.first() {
        Some(next) if is_within(next) && within + 1 < CHARACTER_BYTES_MAX => {
            &piece[..LINE_BYTES_MAX - within - 1]
        }
        _ => piece,
    }
}

/// `lines` with a line feed after each piece of a line that is longer than `LINE_BYTES_MAX`.
fn cut_long_lines(lines: &[u8]) -> Vec<u8> {
    let mut cut = Vec::with_capacity(lines.len() + lines.len() / LINE_BYTES_MAX);
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if text.is_empty() {
            cut.push(b'\n');
        }
        let mut rest = text;
        while !rest.is_empty() {
            let piece = first_piece(rest);
            rest = &rest[piece.len()..];
            cut.extend_from_slice(piece);
            cut.push(b'\n');
        }
    }
    cut
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Writer { output: self.clone(), waiting: None })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Stream { output: self.clone(), allowed: 0 })
    }
}

/// For WASI 0.2.
struct Stream {
    output: Output,
    /// Bytes that the guest was told that it may write.
    allowed: usize,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.output.0.lock().allowed -= self.allowed;
    }
}

#[async_trait]
impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let Some(left) = self.allowed.checked_sub(bytes.len()) else {
            return Err(StreamError::trap("writes more than `check-write` allows"));
        };
        self.allowed = left;
        let mut lines = self.output.0.lock();
        lines.allowed -= bytes.len();
        lines.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut lines = self.output.0.lock();
        lines.allowed -= self.allowed;
        self.allowed = match lines.log.has_room() {
            true => ALLOWED_MAX.saturating_sub(lines.allowed).clamp(A_LITTLE, LINE_BYTES_MAX),
            false => 0,
        };
        lines.allowed += self.allowed;
        Ok(self.allowed)
    }
}

#[async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        let log = self.output.log();
        loop {
            let room = log.room();
            if log.has_room() {
                return;
            }
            room.await;
        }
    }
}

/// For WASI 0.3.
struct Writer {
    output: Output,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(room) = &mut self.waiting {
                ready!(room.as_mut().poll(cx));
                self.waiting = None;
            }
            let log = self.output.log();
            let room = log.room();
            if log.has_room() {
                // A guest may give all of its memory at once.
                let bytes = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
                self.output.0.lock().write(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            self.waiting = Some(Box::pin(room));
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::GuestLines;

    const VERBATIM: GuestLines = GuestLines { verbatim: true, rate: 0, burst: 0 };

    fn written(pieces: &[&[u8]]) -> Vec<u8> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wasm-serve-stdio-{}-{number}", std::process::id()));
        let log = Log::open(Some(&path), VERBATIM).unwrap();
        let output = Output::new(log.clone());
        for piece in pieces {
            output.0.lock().write(piece);
        }
        output.finish_line();
        log.close(std::time::Duration::from_secs(60));
        let written = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        written
    }

    #[test]
    fn a_guest_writes_no_more_than_it_may() {
        let output = Output::new(Log::open(None, VERBATIM).unwrap());
        let stream = || Stream { output: output.clone(), allowed: 0 };
        let bytes = |count| Bytes::from(vec![b'x'; count]);
        let (mut one, mut other) = (stream(), stream());
        assert!(one.write(bytes(1)).is_err());
        assert_eq!(one.check_write().unwrap(), LINE_BYTES_MAX);
        assert_eq!(other.check_write().unwrap(), LINE_BYTES_MAX);
        assert!(one.write(bytes(LINE_BYTES_MAX - 1)).is_ok());
        assert!(one.write(bytes(2)).is_err());
        assert!(other.write(bytes(1)).is_ok());
        output.0.lock().unfinished.clear();
    }

    #[test]
    fn many_streams_of_an_output_may_write_little_each() {
        let output = Output::new(Log::open(None, VERBATIM).unwrap());
        let mut streams: Vec<_> = (0..100).map(|_| Stream { output: output.clone(), allowed: 0 }).collect();
        let allowed: Vec<_> = streams.iter_mut().map(|stream| stream.check_write().unwrap()).collect();
        assert_eq!(allowed[..16], [LINE_BYTES_MAX; 16]);
        assert_eq!(allowed[16..], [A_LITTLE; 84]);
        // What a stream may write stays so, whatever others do.
        assert!(streams[0].write(Bytes::from_static(b"\n")).is_ok());
        assert_eq!(streams[0].allowed, LINE_BYTES_MAX - 1);
        drop(streams);
        assert_eq!(output.0.lock().allowed, 0);
    }

    #[test]
    fn pieces_become_whole_lines() {
        assert_eq!(written(&[b"a", b"b\nc", b"\n\n"]), b"ab\nc\n\n");
    }

    #[test]
    fn an_unfinished_last_line_is_ended() {
        assert_eq!(written(&[b"a\nb"]), b"a\nb\n");
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = vec![b'x'; LINE_BYTES_MAX + 10];
        let mut expected = vec![b'x'; LINE_BYTES_MAX];
        expected.extend_from_slice(b"\nxxxxxxxxxx\n");
        assert_eq!(written(&[&long, b"\n"]), expected);
        let whole = [&long[..], b"\n"].concat();
        assert_eq!(written(&[&whole]), expected);
        assert_eq!(written(&[b"x", &whole[1..]]), expected);
    }
    #[test]
    fn a_character_is_not_cut() {
        for before in 0..4 {
            let line = ["x".repeat(LINE_BYTES_MAX - before), "\u{1f600}\u{e9}\n".to_owned()].concat();
            let cut = String::from_utf8(written(&[line.as_bytes()])).unwrap();
            assert_eq!(cut.matches('\n').count(), 2, "{before}");
            assert_eq!(cut.replace('\n', ""), line.trim_end());
        }
        // What is no UTF-8 is cut anywhere.
        let line = [vec![0x80; LINE_BYTES_MAX + 10], b"\n".to_vec()].concat();
        assert_eq!(written(&[&line]).len(), LINE_BYTES_MAX + 12);
    }
}
