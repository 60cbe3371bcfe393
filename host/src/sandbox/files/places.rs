//! How many files, folders and sockets guests may have open: each instance, and all together. So
//! the descriptors of the process that connections need stay free.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use wasmtime_wasi::filesystem::Descriptor;

use crate::telemetry::log::Log;

/// What all instances share.
pub(crate) struct Places {
    all_max: usize,
    instance_max: usize,
    taken: AtomicUsize,
    /// Whether it was said that there is none left, of an instance and of all.
    said: [AtomicBool; 2],
}

/// One open file, folder or socket of an instance. Its place is free again when this is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    of_instance: Arc<AtomicUsize>,
}

/// What one instance has open.
#[derive(Default)]
pub(crate) struct Opened {
    /// Made for the first file: most instances open none.
    taken: Option<Arc<AtomicUsize>>,
    /// By the descriptor's number in the instance's table.
    descriptors: HashMap<u32, (Weak<File>, Place)>,
    /// Descriptors that are gone, but streams still have the file.
    streams: Vec<(Weak<File>, Place)>,
}

impl Places {
    pub(crate) fn new(instance_max: usize, all_max: usize) -> Places {
        Places { all_max, instance_max, taken: AtomicUsize::new(0), said: Default::default() }
    }
}

/// Adds one, if there are fewer than `max`.
fn add(taken: &AtomicUsize, max: usize) -> bool {
    taken.fetch_update(Relaxed, Relaxed, |taken| (taken < max).then_some(taken + 1)).is_ok()
}

impl Opened {
    /// A place for one more. None if all are taken.
    pub(crate) fn take(&mut self, places: &Arc<Places>, log: &Log) -> Option<Place> {
        self.streams.retain(|(file, _)| file.strong_count() > 0);
        let of_instance = self.taken.get_or_insert_default().clone();
        let Places { all_max, instance_max, taken, said } = &**places;
        let say = |which: usize, option: &str, max: &usize| {
            if !said[which].swap(true, Relaxed) {
                log.server(format_args!("{option}: {max} files and sockets are open, one more is refused"));
            }
        };
        if !add(&of_instance, *instance_max) {
            say(0, "--open-files", instance_max);
            return None;
        }
        if !add(taken, *all_max) {
            of_instance.fetch_sub(1, Relaxed);
            say(1, "--open-files-total", all_max);
            return None;
        }
        Some(Place { places: places.clone(), of_instance })
    }

    /// The descriptor with this number holds the place.
    pub(crate) fn add(&mut self, number: u32, descriptor: &Descriptor, place: Place) {
        self.descriptors.insert(number, (file(descriptor), place));
    }

    /// The descriptor that had this number is gone from the table.
    pub(crate) fn remove(&mut self, number: u32, descriptor: &Descriptor) {
        let Some(place) = self.descriptors.remove(&number) else { return };
        if let Descriptor::File(file) = descriptor
            && Arc::strong_count(&file.file) > 1
        {
            self.streams.push((Arc::downgrade(&file.file), place.1));
        }
    }

    /// Files that are still in use, once the instance's table is gone: by what is under way
    /// in other threads.
    pub(crate) fn under_way(&self) -> Vec<Weak<File>> {
        let open = self.descriptors.values().chain(&self.streams);
        open.map(|(file, _)| file.clone()).filter(|file| file.strong_count() > 0).collect()
    }
}

/// The file of a descriptor; none for a folder, which may be shared by all instances.
pub(crate) fn file(descriptor: &Descriptor) -> Weak<File> {
    match descriptor {
        Descriptor::File(file) => Arc::downgrade(&file.file),
        Descriptor::Dir(_) => Weak::new(),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of_instance.fetch_sub(1, Relaxed);
        self.places.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi::filesystem::{self, FsPerms, OpenMode};

    use super::*;

    #[test]
    fn an_instance_and_all_have_their_bound() {
        let log = Log::open(None, Default::default()).unwrap();
        let places = Arc::new(Places::new(2, 3));
        let (mut one, mut other) = (Opened::default(), Opened::default());
        let first = one.take(&places, &log).unwrap();
        let _second = one.take(&places, &log).unwrap();
        assert!(one.take(&places, &log).is_none());
        let _third = other.take(&places, &log).unwrap();
        assert!(other.take(&places, &log).is_none());
        drop(first);
        assert!(other.take(&places, &log).is_some());
        assert!(one.take(&places, &log).is_some());
    }

    #[test]
    fn a_stream_keeps_the_place_of_its_file() {
        let log = Log::open(None, Default::default()).unwrap();
        let (mut opened, places) = (Opened::default(), Arc::new(Places::new(1, 1)));
        let file = File::open("/proc/self/exe").unwrap();
        let file = filesystem::File::new(file, FsPerms::ReadOnly, OpenMode::READ, true);
        let stream = file.file.clone();
        let place = opened.take(&places, &log).unwrap();
        let descriptor = Descriptor::File(file);
        opened.add(7, &descriptor, place);
        opened.remove(7, &descriptor);
        drop(descriptor);
        assert!(opened.take(&places, &log).is_none());
        drop(stream);
        assert!(opened.take(&places, &log).is_some());
    }
}
