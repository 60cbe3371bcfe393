//! What a line of the log looks like: whose it is, and what of it is escaped.

use std::borrow::Cow;
use std::time::SystemTime;

use crate::terminal::escape;

/// A longer message is cut: parts of it, such as the names of functions, come from guests.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// What each line of a guest begins with.
const MARK: &[u8] = b"guest: ";

/// What becomes of the lines of guests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Marked,
    Escaped,
    Verbatim,
}

impl Shown {
    pub(crate) fn lines(self, lines: &[u8]) -> Cow<'_, [u8]> {
        if self == Shown::Verbatim {
            return Cow::Borrowed(lines);
        }
        let mut shown = Vec::with_capacity(lines.len() + lines.len() / 8 + 64);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self == Shown::Marked {
                shown.extend_from_slice(MARK);
            }
            escape::push(&mut shown, line.strip_suffix(b"\n").unwrap_or(line));
            shown.push(b'\n');
        }
        Cow::Owned(shown)
    }
}

/// A message of the server's own, with the time.
pub(crate) fn server_line(message: impl std::fmt::Display) -> Vec<u8> {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let mut message = format!("{time} {message}");
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str("...");
    }
    escape::message(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_what_is_indented() {
        let line = server_line(format_args!("a\nguest: b\u{2028}{}", "x".repeat(1 << 20)));
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(" a\n    guest: b\\u{2028}x"), "{}", &line[..100]);
        assert!(line.len() < MESSAGE_BYTES_MAX + 100 && line.ends_with("...\n"));
    }
}
