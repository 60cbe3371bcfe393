//! An application, as it was named.

use std::path::PathBuf;

/// Which components have the same seed of hashes, and all else that CPython draws when it starts. Who has
/// the file of one of them knows the seed of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashSeed {
    /// All that are built with these tools: their interpreter draws it.
    OfTools,
    /// None but this one: an interpreter is made for it.
    Own,
}

/// What a component is made of.
#[derive(Clone, Debug)]
pub struct Application {
    /// The file with the application, as the user named it.
    pub file: PathBuf,
    /// The name in it.
    pub callable: String,
    /// Folders in which its imports are looked for, the first one first.
    pub folders: Vec<PathBuf>,
    /// The variables that it sees.
    pub environment: Vec<(String, String)>,
    pub seed: HashSeed,
}
