//! What a client of HTTP/1 does wrong in a way that the HTTP library does not see.

/// What a client does wrong in a way that only the bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    LengthAndEncoding = 1,
    Chunk,
    Trailer,
    CutShort,
}

impl Fault {
    const ALL: [Fault; 4] = [Fault::LengthAndEncoding, Fault::Chunk, Fault::Trailer, Fault::CutShort];

    pub(crate) fn from_number(number: u8) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| *fault as u8 == number)
    }

    /// The rule that is broken.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Fault::LengthAndEncoding => "Content-Length beside Transfer-Encoding (RFC 9112, 6.1)",
            Fault::Chunk => "a malformed chunk (RFC 9112, 7.1)",
            Fault::Trailer => "a malformed trailer (RFC 9112, 7.1.2)",
            Fault::CutShort => "the body was cut short (RFC 9112, 8)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_number_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_number(fault as u8), Some(fault));
        }
        assert_eq!(Fault::from_number(0), None);
    }
}
