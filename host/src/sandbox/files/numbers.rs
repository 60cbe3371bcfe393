//! What a core module has open, by its numbers: wasmtime keeps to itself which of them
//! stands for which file.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Weak;

use wasmtime_wasi::filesystem::{Descriptor, Dir};

use super::places::{self, Place};

/// The numbers of standard input, output and error come first, then the folders.
const FIRST_FOLDER: u32 = 3;

pub(crate) struct Numbers(HashMap<u32, Number>);

struct Number {
    /// If it is a folder.
    folder: Option<Dir>,
    /// If it is a file.
    file: Weak<File>,
    /// The folders that it was given share theirs with all instances.
    _place: Option<Place>,
}

impl Numbers {
    /// Those of a module that was given these folders.
    pub(crate) fn new(folders: &[Dir]) -> Numbers {
        let given = |folder: &Dir| Number { folder: Some(folder.clone()), file: Weak::new(), _place: None };
        Numbers((FIRST_FOLDER..).zip(folders.iter().map(given)).collect())
    }

    /// If the number stands for a folder.
    pub(crate) fn folder(&self, number: u32) -> Option<Dir> {
        self.0.get(&number).and_then(|number| number.folder.clone())
    }

    /// Something was opened; None if it is not known what.
    pub(crate) fn add(&mut self, number: u32, opened: Option<&Descriptor>, place: Place) {
        let (folder, file) = match opened {
            Some(Descriptor::Dir(folder)) => (Some(folder.clone()), Weak::new()),
            Some(opened) => (None, places::file(opened)),
            None => (None, Weak::new()),
        };
        self.0.insert(number, Number { folder, file, _place: Some(place) });
    }

    pub(crate) fn remove(&mut self, number: u32) {
        self.0.remove(&number);
    }

    /// What was at the new number is closed, whatever takes its place.
    pub(crate) fn renumber(&mut self, from: u32, to: u32) {
        self.remove(to);
        if let Some(number) = self.0.remove(&from) {
            self.0.insert(to, number);
        }
    }

    /// See `Opened::under_way`.
    pub(crate) fn under_way(&self) -> Vec<Weak<File>> {
        let files = self.0.values().map(|number| number.file.clone());
        files.filter(|file| file.strong_count() > 0).collect()
    }
}
