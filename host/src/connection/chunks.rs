//! A body in chunks, byte by byte: where it ends, and what in it is malformed.

use super::fault::Fault;

/// A body in chunks (RFC 9112, 7.1).
pub(super) struct Chunks {
    at: At,
    /// Of the chunk's size, what is known, and then what is to come.
    size: u64,
}

/// Which byte of it comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    FirstDigit,
    Size,
    /// After a space before `;`, which must come.
    Semicolon,
    ExtensionName,
    InExtensionName,
    /// After a space behind an extension's name.
    Equals,
    ExtensionValue,
    InExtensionValue,
    Quoted,
    QuotedPair,
    Unquoted,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    End,
}

impl Chunks {
    pub(super) fn new() -> Chunks {
        Chunks { at: At::FirstDigit, size: 0 }
    }

    /// Its last byte has come.
    pub(super) fn are_over(&self) -> bool {
        self.at == At::End
    }

    /// Reads up to the end of the body. Gives how much that was. If something in it is wrong:
    /// what, and how many bytes are before it.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, (usize, Fault)> {
        let mut at = 0;
        while at < bytes.len() && self.at != At::End {
            if self.at == At::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.size -= count as u64;
                at += count;
                if self.size == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            self.at = self.after(bytes[at]).map_err(|fault| (at, fault))?;
            at += 1;
        }
        Ok(at)
    }

    /// What follows `byte`.
    fn after(&mut self, byte: u8) -> Result<At, Fault> {
        let next = match (self.at, byte) {
            (At::FirstDigit | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).expect("it is a digit");
                let size = self.size.checked_mul(16).and_then(|size| size.checked_add(digit.into()));
                self.size = size.ok_or(Fault::Chunk)?;
                At::Size
            }
            (At::Size | At::InExtensionName | At::InExtensionValue | At::Unquoted, b'\r') => At::SizeLineFeed,
            (
                At::Size
                | At::Semicolon
                | At::InExtensionName
                | At::Equals
                | At::InExtensionValue
                | At::Unquoted,
                b';',
            ) => At::ExtensionName,
            (At::Size | At::Semicolon | At::InExtensionValue | At::Unquoted, b' ' | b'\t') => At::Semicolon,
            (At::ExtensionName | At::ExtensionValue, b' ' | b'\t') => self.at,
            (At::ExtensionName | At::InExtensionName, _) if is_token(byte) => At::InExtensionName,
            (At::InExtensionName | At::Equals, b' ' | b'\t') => At::Equals,
            (At::InExtensionName | At::Equals, b'=') => At::ExtensionValue,
            (At::ExtensionValue, b'"') => At::Quoted,
            (At::ExtensionValue | At::InExtensionValue, _) if is_token(byte) => At::InExtensionValue,
            (At::Quoted, b'"') => At::Unquoted,
            (At::Quoted, b'\\') => At::QuotedPair,
            (At::Quoted | At::QuotedPair, _) if is_text(byte) => At::Quoted,
            (At::SizeLineFeed, b'\n') if self.size == 0 => At::Trailer,
            (At::SizeLineFeed, b'\n') => At::Data,
            (At::DataReturn, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => At::FirstDigit,
            (At::Trailer, b'\r') => At::LastLineFeed,
            (At::Trailer | At::TrailerName, _) if is_token(byte) => At::TrailerName,
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerLineFeed,
            (At::TrailerValue, _) if is_text(byte) => At::TrailerValue,
            (At::TrailerLineFeed, b'\n') => At::Trailer,
            (At::LastLineFeed, b'\n') => At::End,
            (
                At::Trailer | At::TrailerName | At::TrailerValue | At::TrailerLineFeed | At::LastLineFeed,
                _,
            ) => return Err(Fault::Trailer),
            _ => return Err(Fault::Chunk),
        };
        Ok(next)
    }
}

/// `tchar` (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may be in a field's value or, but for `"` and `\`, between quotes (RFC 9110, 5.5
/// and 5.6.4).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}
