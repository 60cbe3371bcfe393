//! The machine code of single functions, kept from one guest to the next: an interpreter is the
//! same in all that is made with it, and compiling it takes nearly all the time.
//!
//! A function is known by a sum over what the compiler makes its code of. So this is for guests
//! that our own tools made: none of others' can look for another function with the same sum.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::CacheStore;

/// Of more, what was compiled first is compiled anew.
const BYTES_MAX: usize = 128 << 20;
/// The compiler's own, SHA-256.
const KEY_BYTES: usize = 32;
/// Before the code of each function: its key, and how many bytes the code has.
const HEAD_BYTES: usize = KEY_BYTES + size_of::<u32>();

type Key = [u8; KEY_BYTES];

/// Functions that were compiled before, and those that are compiled now.
pub(super) struct Functions {
    known: Vec<u8>,
    places: HashMap<Key, Range<usize>>,
    compiled: Mutex<HashMap<Key, Vec<u8>>>,
}

impl Functions {
    /// What is `known` is what `all` gave for another guest.
    pub(super) fn new(known: Vec<u8>) -> Arc<Functions> {
        let places = places(&known).collect();
        Arc::new(Functions { known, places, compiled: Mutex::default() })
    }

    /// All of them, the latest first; none if all were known.
    pub(super) fn all(&self) -> Option<Vec<u8>> {
        let compiled = self.compiled.lock();
        let mut all = Vec::new();
        for (key, code) in compiled.iter() {
            let Ok(length) = u32::try_from(code.len()) else { continue };
            all.extend(key);
            all.extend(length.to_le_bytes());
            all.extend(code);
        }
        for (key, place) in places(&self.known) {
            if compiled.contains_key(&key) {
                continue;
            }
            let place = place.start - HEAD_BYTES..place.end;
            if all.len() + place.len() > BYTES_MAX {
                break;
            }
            all.extend(&self.known[place]);
        }
        (!compiled.is_empty()).then_some(all)
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let place = self.places.get(key)?;
        Some(self.known[place.clone()].into())
    }

    fn insert(&self, key: &[u8], code: Vec<u8>) -> bool {
        let Ok(key) = key.try_into() else { return false };
        self.compiled.lock().insert(key, code);
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

    #[test]
    fn what_was_compiled_is_known_for_the_next_guest() {
        let first = Functions::new(Vec::new());
        assert!(first.all().is_none());
        assert!(first.get(&key(1)).is_none());
        assert!(first.insert(&key(1), b"one".to_vec()) && first.insert(&key(2), Vec::new()));
        let second = Functions::new(first.all().unwrap());
        assert!(second.all().is_none(), "all were known");
        assert!(second.insert(&key(3), b"three".to_vec()));
        let third = Functions::new(second.all().unwrap());
        let code = |number| third.get(&key(number)).map(Cow::into_owned);
        assert_eq!(code(1).unwrap(), b"one");
        assert_eq!(code(2).unwrap(), b"");
        assert_eq!(code(3).unwrap(), b"three");
        assert!(code(4).is_none());
    }

    #[test]
    fn of_more_than_is_kept_the_latest_stay() {
        let half = BYTES_MAX / 2;
        let mut known = Vec::new();
        for number in 1..=3 {
            let functions = Functions::new(known);
            assert!(functions.insert(&key(number), vec![number; half - 2 * HEAD_BYTES]));
            known = functions.all().unwrap();
            assert!(known.len() <= BYTES_MAX);
        }
        let last = Functions::new(known);
        assert_eq!([1, 2, 3].map(|number| last.get(&key(number)).is_some()), [false, true, true]);
    }

    #[test]
    fn what_is_cut_off_ends_with_the_last_whole_function() {
        let functions = Functions::new(Vec::new());
        assert!(functions.insert(&key(1), b"one".to_vec()));
        let whole = functions.all().unwrap();
        for length in 0..whole.len() {
            assert!(Functions::new(whole[..length].to_vec()).places.is_empty());
        }
        assert!(!functions.insert(b"short", Vec::new()));
    }
}
