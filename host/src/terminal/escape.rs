//! How text that a guest or a client wrote is shown to whoever reads the log or a
//! terminal: nothing in it steers a terminal, ends a line, or changes the order in
//! which the rest is read. What can be read stays as it is.

use std::fmt::{self, Write};

/// Appends `text` without the characters that act instead of being read: controls,
/// line separators and what changes the direction of writing are written as `\xNN` or
/// `\u{NNNN}`, and so are bytes that are no UTF-8. A tab stays.
pub(crate) fn push(shown: &mut Vec<u8>, text: &[u8]) {
    // Nearly all text is of this kind, and this loop has no branch.
    if text.iter().fold(true, |is_plain, byte| is_plain & matches!(byte, b' '..=b'~' | b'\t')) {
        return shown.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_character(shown, character);
        }
        for byte in chunk.invalid() {
            shown.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

fn push_character(shown: &mut Vec<u8>, character: char) {
    match character {
        '\t' => shown.push(b'\t'),
        _ if character.is_control() => {
            shown.extend_from_slice(format!("\\x{:02x}", character as u32).as_bytes());
        }
        // Line separators, and Unicode's list of what steers the direction.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' | '\u{200e}' | '\u{200f}' => {
            shown.extend_from_slice(character.escape_unicode().to_string().as_bytes());
        }
        _ => shown.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// `text` as `push` shows it.
pub(crate) fn text(text: &str) -> String {
    let mut shown = Vec::with_capacity(text.len());
    push(&mut shown, text.as_bytes());
    String::from_utf8(shown).expect("what was UTF-8 stays UTF-8")
}

/// Each line of `text` as `push` shows it, ended by a line feed. All but the first are
/// indented: so no part of a message looks like another message.
pub(crate) fn message(text: &str) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len() + 1);
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            shown.extend_from_slice(b"    ");
        }
        push(&mut shown, line.as_bytes());
        shown.push(b'\n');
    }
    shown
}

/// The target of a request between quotes: only what a client may write there (RFC 3986)
/// stays, for clients get away with quotes, backslashes and bytes beyond ASCII.
pub(crate) struct Target<'a>(pub &'a str);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'\\';
        if self.0.bytes().all(is_plain) {
            return f.write_str(self.0);
        }
        self.0.bytes().try_for_each(|byte| match is_plain(byte) {
            true => f.write_char(byte as char),
            false => write!(f, "\\x{byte:02x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: impl AsRef<[u8]>) -> String {
        let mut shown = Vec::new();
        push(&mut shown, text.as_ref());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn nothing_acts_on_a_terminal_or_ends_a_line() {
        assert_eq!(shown("a\tb"), "a\tb");
        assert_eq!(shown("\x1b[2J\r\n\x7f\0"), "\\x1b[2J\\x0d\\x0a\\x7f\\x00");
        assert_eq!(shown("\u{9b}2J\u{85}"), "\\x9b2J\\x85");
        assert_eq!(shown("a\u{2028}b\u{202e}c\u{2066}"), "a\\u{2028}b\\u{202e}c\\u{2066}");
        assert_eq!(shown(b"\x9b2J\xc2 \xff"), "\\x9b2J\\xc2 \\xff");
    }

    #[test]
    fn what_can_be_read_stays_as_it_is() {
        let said = "No such file: 'a\\b' \"c\" \u{e9} n\u{303} \u{915}\u{93f}";
        assert_eq!(shown(said), said);
    }

    #[test]
    fn further_lines_of_a_message_are_indented() {
        assert_eq!(message("a\nb\r\n\nc"), b"a\n    b\\x0d\n    \n    c\n");
    }

    #[test]
    fn a_target_has_no_quotes_and_nothing_beyond_ascii() {
        assert_eq!(Target("/a?b=%22{c}").to_string(), "/a?b=%22{c}");
        assert_eq!(Target("/\" 200\\\u{a0}\u{7f}").to_string(), "/\\x22\\x20200\\x5c\\xc2\\xa0\\x7f");
    }
}
