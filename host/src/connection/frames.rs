//! Whether a head is coming in over HTTP/2, which the HTTP library does not say: the frames
//! of a connection, followed by their first nine bytes (RFC 9113, 4.1).

/// What a client of HTTP/2 with prior knowledge sends first (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// A flag of both: the head ends with this frame.
const END_HEADERS: u8 = 4;

/// Follows what a client sends.
pub(super) struct Frames {
    /// The beginning of a frame, as far as it has come.
    start: [u8; 9],
    start_bytes: usize,
    /// What is to come of the frame.
    bytes_left: usize,
    /// The last frame that began is part of a head.
    is_head: bool,
}

/// What there is of heads at the end of the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    Nothing,
    /// The rest of a head.
    Head {
        /// It began in these bytes.
        is_new: bool,
    },
}

impl Default for Frames {
    /// The frames behind the preface, which is read like one.
    fn default() -> Frames {
        Frames { start: [0; 9], start_bytes: 9, bytes_left: PREFACE.len(), is_head: false }
    }
}

impl Frames {
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Coming {
        let mut is_new = false;
        loop {
            let count = self.bytes_left.min(bytes.len());
            self.bytes_left -= count;
            bytes = &bytes[count..];
            if self.bytes_left == 0 && self.start_bytes == self.start.len() {
                self.start_bytes = 0;
                self.is_head &= self.start[4] & END_HEADERS == 0;
            }
            if bytes.is_empty() {
                return if self.is_head { Coming::Head { is_new } } else { Coming::Nothing };
            }
            let count = (self.start.len() - self.start_bytes).min(bytes.len());
            self.start[self.start_bytes..][..count].copy_from_slice(&bytes[..count]);
            self.start_bytes += count;
            bytes = &bytes[count..];
            if self.start_bytes == self.start.len() {
                let [high, middle, low, kind, ..] = self.start;
                self.bytes_left = u32::from_be_bytes([0, high, middle, low]) as usize;
                is_new |= kind == HEADERS;
                self.is_head = kind == HEADERS || kind == CONTINUATION && self.is_head;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = (length as u32).to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + length, b'x');
        frame
    }

    #[test]
    fn a_head_comes_from_its_first_frame_to_the_end_of_its_last() {
        let rows = [
            (vec![frame(4, 0, 0)], Coming::Nothing),
            (vec![frame(HEADERS, END_HEADERS, 20)], Coming::Nothing),
            (vec![frame(HEADERS, END_HEADERS, 0)], Coming::Nothing),
            (vec![frame(HEADERS, 0, 20)], Coming::Head { is_new: true }),
            (vec![frame(HEADERS, 0, 20), frame(CONTINUATION, 0, 5)], Coming::Head { is_new: true }),
            (vec![frame(HEADERS, 0, 20), frame(CONTINUATION, END_HEADERS, 5)], Coming::Nothing),
            (vec![frame(HEADERS, END_HEADERS, 20)[..15].to_vec()], Coming::Head { is_new: true }),
            (vec![frame(0, 1, 20)[..15].to_vec()], Coming::Nothing),
            (vec![frame(HEADERS, END_HEADERS, 1), frame(6, 0, 8)[..12].to_vec()], Coming::Nothing),
        ];
        for (sent, coming) in rows {
            let bytes = [PREFACE, &sent.concat()].concat();
            assert_eq!(Frames::default().follow(&bytes), coming, "{sent:?}");
            for size in [1, 2, 5, 10] {
                let mut frames = Frames::default();
                let last = bytes.chunks(size).map(|piece| frames.follow(piece)).last().unwrap();
                assert_eq!(last != Coming::Nothing, coming != Coming::Nothing, "{sent:?}");
            }
        }
    }
}
