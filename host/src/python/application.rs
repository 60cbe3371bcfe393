//! An application, as it was named.

use std::path::PathBuf;

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
}
