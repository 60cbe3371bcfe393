//! What has been told in the log of late: a guest may cause it in each request, and a line once
//! in a while is enough.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::memory::account::OnNoAccount;

/// How long nothing more is told of it.
const PAUSE: Duration = Duration::from_secs(60);
/// Things of which it is known when they were told. A guest may make up any number.
const KNOWN_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Told {
    /// By a number of the text: a guest may also make it up as long as it likes. Two texts of one
    /// number would cost a line.
    known: Mutex<HashMap<u64, Instant>>,
    numbers: RandomState,
}

impl Told {
    /// Whether it is to be told, which it then has been.
    pub(crate) fn is_new(&self, text: &str) -> bool {
        let (number, now, mut known) = (self.numbers.hash_one(text), Instant::now(), self.known.lock());
        if known.get(&number).is_some_and(|then| now.duration_since(*then) < PAUSE) {
            return false;
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, then| now.duration_since(*then) < PAUSE);
        }
        if known.len() >= KNOWN_MAX {
            return false;
        }
        let _for_the_server = OnNoAccount::begin();
        known.insert(number, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_not_too_many() {
        let told = Told::default();
        assert!(told.is_new("a") && !told.is_new("a") && told.is_new("b"));
        let new = (2..1000).filter(|number| told.is_new(&number.to_string())).count();
        assert_eq!(new, KNOWN_MAX - 2);
    }
}
