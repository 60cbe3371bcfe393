//! The machine code of single functions, kept from one guest to the next: an interpreter is the
//! same in all that is made with it, and compiling it takes nearly all the time.
//!
//! A function is known by a sum over what the compiler makes its code of. It makes that in another
//! order each time for some functions, in CPython one of twenty, so these are kept in several forms.
//!
//! That sum is why this is for guests that our own tools made: none of others' can look for
//! another function with the same sum.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::CacheStore;

/// Of more, what was not used of late is compiled anew.
const BYTES_MAX: usize = 64 << 20;
/// The compiler's own, SHA-256.
const KEY_BYTES: usize = 32;
/// Before the code of each function: its key, and how many bytes the code has.
const HEAD_BYTES: usize = KEY_BYTES + size_of::<u32>();

type Key = [u8; KEY_BYTES];

/// Functions that were compiled before, and those that are compiled now.
pub(super) struct Functions {
    known: Vec<u8>,
    places: HashMap<Key, Range<usize>>,
    /// Those of the guest that is compiled.
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    known: HashSet<Key>,
    new: HashMap<Key, Vec<u8>>,
}

impl Functions {
    /// What is `known` is what was written for another guest.
    pub(super) fn new(known: Vec<u8>) -> Arc<Functions> {
        let places = places(&known).collect();
        Arc::new(Functions { known, places, met: Mutex::default() })
    }

    /// Writes all of them, those of this guest first; nothing if all were known.
    pub(super) fn write_to(&self, into: &mut impl Write) -> io::Result<()> {
        let met = self.met.lock();
        if met.new.is_empty() {
            return Ok(());
        }
        let new = met.new.iter().map(|(key, code)| (*key, &code[..]));
        let known = || places(&self.known).map(|(key, place)| (key, &self.known[place]));
        let of_this = known().filter(|(key, _)| met.known.contains(key));
        let others = known().filter(|(key, _)| !met.known.contains(key) && !met.new.contains_key(key));
        let mut left = BYTES_MAX;
        for (key, code) in new.chain(of_this).chain(others) {
            let Ok(length) = u32::try_from(code.len()) else { continue };
            let Some(less) = left.checked_sub(HEAD_BYTES + code.len()) else { break };
            left = less;
            into.write_all(&key)?;
            into.write_all(&length.to_le_bytes())?;
            into.write_all(code)?;
        }
        into.flush()
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let (key, place) = self.places.get_key_value(key)?;
        self.met.lock().known.insert(*key);
        Some(self.known[place.clone()].into())
    }

    fn insert(&self, key: &[u8], code: Vec<u8>) -> bool {
        let Ok(key) = key.try_into() else { return false };
        let mut met = self.met.lock();
        // The compiler could not use what was known.
        met.known.remove(&key);
        met.new.insert(key, code);
        true
    }
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").field("known", &self.places.len()).finish_non_exhaustive()
    }
}

/// Where the code of each function is.
fn places(known: &[u8]) -> impl Iterator<Item = (Key, Range<usize>)> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let (key, rest) = known.get(end..)?.split_first_chunk::<KEY_BYTES>()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let start = end + HEAD_BYTES;
        end = start + rest.get(..length)?.len();
        Some((*key, start..end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        [number; KEY_BYTES]
    }

    fn written(functions: &Functions) -> Vec<u8> {
        let mut all = Vec::new();
        functions.write_to(&mut all).unwrap();
        all
    }

    #[test]
    fn what_was_compiled_is_known_for_the_next_guest() {
        let first = Functions::new(Vec::new());
        assert!(written(&first).is_empty());
        assert!(first.get(&key(1)).is_none());
        assert!(first.insert(&key(1), b"one".to_vec()) && first.insert(&key(2), Vec::new()));
        let second = Functions::new(written(&first));
        assert!(second.get(&key(1)).is_some() && written(&second).is_empty(), "all were known");
        assert!(second.insert(&key(3), b"three".to_vec()));
        assert!(second.insert(&key(2), b"two".to_vec()));
        let third = Functions::new(written(&second));
        let code = |number| third.get(&key(number)).map(Cow::into_owned);
        assert_eq!(code(1).unwrap(), b"one");
        assert_eq!(code(2).unwrap(), b"two");
        assert_eq!(code(3).unwrap(), b"three");
        assert!(code(4).is_none());
    }

    #[test]
    fn of_more_than_is_kept_those_stay_that_are_used() {
        let part = BYTES_MAX / 3 - 2 * HEAD_BYTES;
        let mut known = Vec::new();
        for number in 1..=4 {
            let functions = Functions::new(known);
            if number > 1 {
                assert!(functions.get(&key(1)).is_some(), "the first one is in each guest");
            }
            assert!(functions.insert(&key(number), vec![number; part]));
            known = written(&functions);
            assert!(known.len() <= BYTES_MAX);
        }
        let last = Functions::new(known);
        assert_eq!([1, 2, 3, 4].map(|number| last.get(&key(number)).is_some()), [true, false, true, true]);
    }

    #[test]
    fn what_is_cut_off_ends_with_the_last_whole_function() {
        let functions = Functions::new(Vec::new());
        assert!(functions.insert(&key(1), b"one".to_vec()));
        let whole = written(&functions);
        for length in 0..whole.len() {
            assert!(Functions::new(whole[..length].to_vec()).places.is_empty());
        }
        assert!(!functions.insert(b"short", Vec::new()));
    }
}
