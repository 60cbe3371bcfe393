//! By which names an instance found addresses: what is granted to a name may be connected to by
//! the addresses that it had.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

/// Addresses of which the names are known. If there are more, all are forgotten, and a guest that
/// wants to connect to one looks up its name again.
const ADDRESSES_MAX: usize = 256;
/// Names that one address may have.
const NAMES_MAX: usize = 8;

/// Those of one instance.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<IpAddr, Vec<String>>>);

impl Names {
    /// The guest is told that the name has this address.
    pub(crate) fn add(&self, name: &str, address: IpAddr) {
        let (mut known, address) = (self.0.lock(), address.to_canonical());
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&address) {
            known.clear();
        }
        let names = known.entry(address).or_default();
        if names.iter().any(|known| known == name) {
            return;
        }
        if names.len() >= NAMES_MAX {
            names.remove(0);
        }
        names.push(name.to_owned());
    }

    pub(super) fn of(&self, address: IpAddr) -> Vec<String> {
        self.0.lock().get(&address.to_canonical()).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_address_and_bounded() {
        let names = Names::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for _ in 0..2 {
            names.add("a.test", address(1));
            names.add("b.test", "::ffff:0.0.0.1".parse().unwrap());
        }
        assert_eq!(names.of(address(1)), ["a.test", "b.test"]);
        assert!(names.of(address(2)).is_empty());
        for number in 0..NAMES_MAX {
            names.add(&format!("{number}.test"), address(1));
        }
        assert_eq!(names.of(address(1)).len(), NAMES_MAX);
        for number in 0..ADDRESSES_MAX as u32 {
            names.add("c.test", address(number + 2));
        }
        assert!(names.0.lock().len() <= ADDRESSES_MAX);
        assert_eq!(names.of(address(ADDRESSES_MAX as u32 + 1)), ["c.test"]);
    }
}
