//! Words of a command line, and what is written to the log.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Parser;

use crate::config::{CommandLine, Task};
use crate::telemetry::lines::{self, Shown};
use crate::terminal::escape;

/// Words, each ended by a line feed.
pub(super) fn options(bytes: &[u8]) {
    let words = bytes.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let command_line =
        match CommandLine::try_parse_from([OsString::from("wasm-serve")].into_iter().chain(words)) {
            Ok(command_line) => command_line,
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        };
    let CommandLine { task, serve } = command_line;
    match task {
        Some(Task::Build(options)) => _ = options.check().map(|()| drop(options.made())),
        Some(Task::Calls(options)) => _ = options.check(),
        Some(Task::Dev(options)) => _ = options.check(),
        Some(Task::Componentize(options)) => _ = options.check(),
        Some(Task::New(_) | Task::Inspect(_) | Task::Compile(_) | Task::Import(_) | Task::Run(_)) => {}
        None => {
            // In granted folders it would look at a hundred thousand files.
            let checked = if serve.dir.is_empty() { serve.check() } else { serve.check_values() };
            let Ok(settings) = checked else { return };
            // What is taken can be used.
            let _ = (settings.client_bounds(), settings.guest_lines());
            let _ = (settings.grants(), settings.memory_total_bytes(), settings.room(), settings.sockets());
            assert!(settings.request_time_max() >= settings.request_limits().time_max);
        }
    }
}

/// What a guest printed, and a message with a part from a guest.
pub(super) fn log(bytes: &[u8]) {
    let steers = |c: char| {
        c.is_control() && !matches!(c, '\t' | '\n')
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
    };
    let checked = |lines: Vec<u8>| {
        let lines = String::from_utf8(lines).expect("it is UTF-8");
        assert!(!lines.contains(steers) && lines.ends_with('\n'), "{lines:?}");
        lines
    };
    let marked = checked(Shown::Marked.lines(&[bytes, b"\n"].concat()).into_owned());
    assert!(marked.lines().all(|line| line.starts_with("guest: ")), "{marked:?}");
    let message = checked(lines::server_line(String::from_utf8_lossy(bytes)));
    let mut further = message.lines().skip(1);
    assert!(further.all(|line| line.starts_with("    ")), "{message:?}");
    let target = escape::Target(&String::from_utf8_lossy(bytes)).to_string();
    assert!(target.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'"'), "{target:?}");
}
