//! Files of the cache, as whatever happens to a disk or its user leaves them.

use std::fs;

use crate::cache::Cache;

const NAME: &str = "a.cwasm";

/// A file that was kept, or the folder's key, is changed: what was kept is found as it was, or
/// not at all.
pub(super) fn cache(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Cache::open(folder.path(), 9).expect("it is ours");
    let cache = open();
    let (content, change) = rest.split_at(rest.len() / 2);
    cache.keep(NAME, content).expect("there is room");
    let path = folder.path().join(if kind % 4 == 0 { "key" } else { NAME });
    let before = fs::read(&path).expect("it is there");
    let after = match kind % 4 {
        0 | 1 => change.to_vec(),
        2 => [&before[..], change].concat(),
        _ => changed(before.clone(), change),
    };
    fs::write(&path, &after).expect("it is ours");
    let found = open().find(NAME).ok().flatten();
    assert_eq!(found.as_deref(), (after == before).then_some(content));
    let cache = open();
    assert!(cache.find(NAME).expect("what does not fit is gone") == found);
    cache.keep(NAME, content).expect("there is room");
    assert_eq!(cache.find(NAME).expect("it was just made").as_deref(), Some(content));
}

/// With other bytes in some places, or cut off there.
fn changed(mut bytes: Vec<u8>, change: &[u8]) -> Vec<u8> {
    for change in change.chunks_exact(2) {
        let at = usize::from(change[0]) % bytes.len();
        match change[1] {
            0xff => bytes.truncate(at.max(1)),
            with => bytes[at] ^= with,
        }
    }
    bytes
}
