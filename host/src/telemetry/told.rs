//! What has been told in the log of late: a guest may cause it in each request, and a line once
//! in a while is enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::memory::account::OnNoAccount;

/// How long nothing more is told of it.
const PAUSE: Duration = Duration::from_secs(60);
/// Things of which it is known when they were told. A guest may make up any number.
const KNOWN_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// Whether it is to be told, which it then has been.
    pub(crate) fn is_new(&self, text: &str) -> bool {
        let (now, mut told) = (Instant::now(), self.0.lock());
        if told.get(text).is_some_and(|then| now.duration_since(*then) < PAUSE) {
            return false;
        }
        if told.len() >= KNOWN_MAX {
            told.retain(|_, then| now.duration_since(*then) < PAUSE);
        }
        if told.len() >= KNOWN_MAX {
            return false;
        }
        let _for_the_server = OnNoAccount::begin();
        told.insert(text.to_owned(), now);
        true
    }
}
