//! A guest as it is in its file: what it is, what it needs, and its code.

pub mod advice;
pub mod compiled;
pub mod compiling;
pub mod file;
pub mod initial_data;
pub mod missing;
pub mod pieces;
pub mod rewrite;
pub mod summary;

/// A guest as it is in its file.
pub struct Content {
    pub bytes: Vec<u8>,
    /// The sum of the bytes, if it is known.
    pub sum: Option<blake3::Hash>,
}
