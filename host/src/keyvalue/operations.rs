//! What a store can be asked, whichever kind it is, and what can go wrong.

use async_trait::async_trait;

/// Bytes of a key. Of some stores keys are parts of an index, which has no room for long ones.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Keys of one call of many, and of one page of a list.
pub(crate) const KEYS_MAX: usize = 1000;

/// A key with its value.
pub(crate) type Pair = (String, Vec<u8>);

/// Some of a store's keys.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    pub keys: Vec<String>,
    /// Where the next page begins; none after the last.
    pub next: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Error {
    /// No store is granted by this name.
    NoSuchStore,
    /// What the guest asks for cannot be done: it is told why.
    Refused(String),
    /// The store does not do what it should: the operator is told why.
    Unavailable(String),
}

impl Error {
    pub(super) fn unavailable(error: impl std::fmt::Display) -> Error {
        Error::Unavailable(error.to_string())
    }

    pub(super) fn too_many_bytes(bytes_max: u64) -> Error {
        Error::Refused(format!("the values have over {bytes_max} bytes together"))
    }

    pub(super) fn no_number() -> Error {
        Error::Refused("the value is not a whole number of 64 bits, or would not be one".to_owned())
    }

    pub(super) fn below(least: i64) -> Error {
        Error::Refused(format!("the value would be below {least}"))
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;

/// A store. What it is asked is within the limits, and no list is empty.
#[async_trait]
pub(super) trait Operations: Send + Sync {
    /// The values of these keys, in their order, with no more than so many bytes together.
    async fn get(&self, keys: Vec<String>, bytes_max: u64) -> Result<Vec<Option<Vec<u8>>>>;

    async fn exists(&self, key: String) -> Result<bool>;

    /// Sets all of them or, after an error, perhaps none. The keys are in order, and each is there
    /// once.
    async fn set(&self, pairs: Vec<Pair>) -> Result<()>;

    async fn delete(&self, keys: Vec<String>) -> Result<()>;

    /// At most `KEYS_MAX` keys, in any order, from where an earlier page says on.
    async fn list(&self, from: Option<u64>) -> Result<Page>;

    /// Adds to a value that is a whole number, or 0 if it is not there. Gives the new one. The
    /// number is in decimal digits, which may begin with zeros, and has a minus sign if it is below
    /// 0. One that would be below the least is not set; `delta` itself is not.
    async fn increment(&self, key: String, delta: i64, least: i64) -> Result<i64>;

    /// Sets the value if the present one is `old`, in one step. Gives whether it was.
    async fn swap(&self, key: String, old: Option<Vec<u8>>, new: Vec<u8>) -> Result<bool>;
}

/// The sum of what is written in digits and `delta`.
pub(super) fn sum(value: Option<&[u8]>, delta: i64, least: i64) -> Result<i64> {
    let number = match value {
        // A plus sign is one that not all places would take.
        Some(value) if !value.starts_with(b"+") => {
            std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok())
        }
        Some(_) => None,
        None => Some(0),
    };
    let sum = number.and_then(|number| number.checked_add(delta)).ok_or_else(Error::no_number)?;
    if sum < least { Err(Error::below(least)) } else { Ok(sum) }
}

/// Values of one answer, as far as they are within a bound.
pub(super) struct Room(u64, u64);

impl Room {
    pub(super) fn of(bytes_max: u64) -> Room {
        Room(bytes_max, bytes_max)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<()> {
        self.0 = self.0.checked_sub(bytes as u64).ok_or_else(|| Error::too_many_bytes(self.1))?;
        Ok(())
    }
}

/// Does something when it is dropped, unless it was told before that an answer has come. Whoever
/// waits no longer drops what waits: a connection may have gone silent, and only that shows it.
pub(super) struct Unanswered<F: FnMut()>(Option<F>);

impl<F: FnMut()> Unanswered<F> {
    pub(super) fn then(what: F) -> Unanswered<F> {
        Unanswered(Some(what))
    }

    pub(super) fn answered(mut self) {
        self.0 = None;
    }
}

impl<F: FnMut()> Drop for Unanswered<F> {
    fn drop(&mut self) {
        if let Some(what) = &mut self.0 {
            what();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_are_added_to() {
        for (value, delta, expected) in [
            (None, 5, Some(5)),
            (Some("-3"), 5, Some(2)),
            (Some("9223372036854775807"), 1, None),
            (Some("-9223372036854775808"), -1, None),
            (Some(""), 1, None),
            (Some("1.5"), 1, None),
            (Some("x"), 1, None),
            (Some("+1"), 1, None),
            (Some("007"), 1, Some(8)),
            (Some("-0"), 1, Some(1)),
        ] {
            assert_eq!(sum(value.map(str::as_bytes), delta, i64::MIN).ok(), expected, "{value:?}");
        }
        assert!(sum(Some(b"\xff"), 1, i64::MIN).is_err());
        assert!(sum(Some(b"-3"), 2, 0).is_err() && sum(Some(b"-3"), 3, 0).is_ok());
    }
}
