//! Where the heads and bodies end that a client of HTTP/1 sends, read beside the HTTP
//! library, which takes some malformed chunks for good ones (it skips what follows a
//! chunk's size) and finds others only when somebody reads the body. What is found here
//! the library does not get: for it, the connection breaks there.
//!
//! A head that the library refuses is none of this file's concern: nothing follows it.

use memchr::memchr;

use super::chunks::Chunks;
use super::fault::Fault;

/// Follows one connection.
#[derive(Default)]
pub(crate) struct Framing {
    state: State,
    /// The beginning of a line of a head whose end has not come.
    line: Vec<u8>,
    /// Heads that have come in whole.
    heads: u64,
}

#[derive(Default)]
enum State {
    /// Before the first line of a head; empty lines do not count.
    #[default]
    Between,
    Head(Head),
    /// So many bytes of a body are to come.
    Body(u64),
    Chunks(Chunks),
    /// In what the library refuses.
    Lost,
}

/// What the fields up to now say of the body, as the library understands them.
#[derive(Default)]
struct Head {
    length: Option<u64>,
    is_chunked: bool,
    has_length: bool,
    has_encoding: bool,
}

impl Framing {
    /// How many heads have come in whole: the number of the request whose head or body was
    /// read last, from 1.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// All requests up to now are whole.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Between) && self.line.is_empty()
    }

    /// The rest of a head is to come.
    pub(crate) fn is_within_head(&self) -> bool {
        !self.is_between() && matches!(self.state, State::Between | State::Head(_))
    }

    /// The rest of a body is to come.
    pub(crate) fn is_within_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Chunks(_))
    }

    /// Reads what came. If something in it is wrong: what, and how many bytes are before it.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Option<(usize, Fault)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match &mut self.state {
                State::Between | State::Head(_) => match self.take_line(rest) {
                    Ok(count) => count,
                    Err((count, fault)) => return Some((at + count, fault)),
                },
                State::Body(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = State::Between;
                    }
                    count
                }
                State::Chunks(chunks) => match chunks.follow(rest) {
                    Ok(count) => {
                        if chunks.are_over() {
                            self.state = State::Between;
                        }
                        count
                    }
                    Err((count, fault)) => return Some((at + count, fault)),
                },
                State::Lost => return None,
            };
        }
        None
    }

    /// Reads up to the end of a line. Gives how much that was.
    fn take_line(&mut self, bytes: &[u8]) -> Result<usize, (usize, Fault)> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let count = end + 1;
        if self.line.is_empty() {
            self.read_line(&bytes[..end]).map_err(|fault| (count, fault))?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&bytes[..end]);
            self.read_line(&line).map_err(|fault| (count, fault))?;
        }
        Ok(count)
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match &mut self.state {
            State::Head(head) if line.is_empty() => {
                self.heads += 1;
                if head.has_length && head.has_encoding {
                    return Err(Fault::LengthAndEncoding);
                }
                self.state = head.body();
            }
            State::Head(head) => head.read_field(line),
            _ if line.is_empty() => {}
            _ => self.state = State::Head(Head::default()),
        }
        Ok(())
    }
}

impl Head {
    fn read_field(&mut self, line: &[u8]) {
        // Few fields get further than to their first letter.
        if !matches!(line[0], b'C' | b'c' | b'T' | b't') {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.has_length = true;
            self.length = number(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.has_encoding = true;
            let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            self.is_chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        }
    }

    fn body(&self) -> State {
        match self.length {
            _ if self.has_encoding && self.is_chunked => State::Chunks(Chunks::new()),
            _ if self.has_encoding => State::Lost,
            None if self.has_length => State::Lost,
            None | Some(0) => State::Between,
            Some(length) => State::Body(length),
        }
    }
}

/// What a Content-Length says: digits and nothing else (RFC 9110, 8.6).
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    rest.iter().try_fold(digit(first)?, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// The same in pieces of every size.
    fn follow(bytes: &[u8]) -> (Option<(usize, Fault)>, Framing) {
        let in_pieces = |size: usize| {
            let mut framing = Framing::default();
            let mut before = 0;
            for piece in bytes.chunks(size) {
                if let Some((at, fault)) = framing.follow(piece) {
                    return (Some((before + at, fault)), framing);
                }
                before += piece.len();
            }
            (None, framing)
        };
        let (whole, framing) = in_pieces(bytes.len());
        for size in [1, 2, 3, 7] {
            let (told, other) = in_pieces(size);
            assert_eq!((told, other.heads, other.is_between()), (whole, framing.heads, framing.is_between()));
        }
        (whole, framing)
    }

    #[test]
    fn where_a_body_ends_the_next_head_begins() {
        let bodies = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
            ("\r\n\nGET / HTTP/1.1\nHost: a\n\n", ""),
            ("POST / HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\n", "GET /"),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", ""),
            (HEAD, "0\r\n\r\n"),
            (HEAD, "5\r\nGET /\r\n0\r\n\r\n"),
            (
                HEAD,
                "00005;a;b=c ; d = \"e\\\"\t\"\r\nGET /\r\n1 ;x\r\ny\r\n000\r\nx-sum: 1, 2\r\nempty:\r\n\r\n",
            ),
        ];
        for (head, body) in bodies {
            let (fault, framing) = follow(format!("{head}{body}").repeat(3).as_bytes());
            assert_eq!((fault, framing.heads, framing.is_between()), (None, 3, true), "{head}{body}");
        }
    }

    #[test]
    fn a_malformed_chunk_is_found_where_it_is() {
        let good = "3\r\nabc\r\n";
        let bad = [
            "5;\r\n",
            "5;=\r\n",
            "5;=a\r\n",
            "5;bad[=x\r\n",
            "5;a=\r\n",
            "5;a=\"b\r\n\"",
            "5;a b\r\n",
            "5;a\0\r\n",
            "5;a=\"\0\"\r\n",
            "5;a=\"b\"c\r\n",
            "5;a \r\n",
            "5 \r\n",
            " 5\r\n",
            "\r\n",
            "1_0\r\n",
            "0x5\r\n",
            "+5\r\n",
            "-1\r\n",
            "g\r\n",
            "10000000000000000\r\n",
            "5\n",
            "5\r5",
            "1\r\nabc",
            "1\r\na\n",
            "1\r\na\r0",
            "0\n",
            "0;\r\n",
        ];
        for bytes in bad {
            let sent = format!("{HEAD}{good}{bytes}");
            let (fault, framing) = follow(sent.as_bytes());
            let (at, fault) = fault.unwrap_or_else(|| panic!("{bytes:?} is taken for good"));
            assert_eq!(fault, Fault::Chunk, "{bytes:?}");
            assert!((HEAD.len() + good.len()..sent.len()).contains(&at), "{bytes:?} at {at}");
            assert!(framing.is_within_body());
        }
    }

    #[test]
    fn a_malformed_trailer_is_found() {
        for bytes in [
            "0\r\n x: y\r\n\r\n",
            "0\r\nx y: z\r\n\r\n",
            "0\r\nx\r\n\r\n",
            "0\r\nx: \0\r\n\r\n",
            "0\r\n\n",
            "0\r\n\rx",
        ] {
            let (fault, _) = follow(format!("{HEAD}3\r\nabc\r\n{bytes}").as_bytes());
            assert_eq!(fault.map(|(_, fault)| fault), Some(Fault::Trailer), "{bytes:?}");
        }
    }

    #[test]
    fn a_head_that_has_begun_is_not_whole() {
        for begun in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "\r"] {
            assert!(!follow(begun.as_bytes()).1.is_between(), "{begun:?}");
        }
    }

    #[test]
    fn two_lengths_of_different_kinds_are_none() {
        for fields in
            ["Content-Length: 1\r\nTransfer-Encoding: chunked", "transfer-encoding: x\r\ncontent-length: x"]
        {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            let (fault, framing) = follow(format!("{head}0\r\n\r\n").as_bytes());
            assert_eq!((fault, framing.heads), (Some((head.len(), Fault::LengthAndEncoding)), 1));
        }
    }
}
