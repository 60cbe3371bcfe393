//! A guest as it is in its file: what it is, what it needs, and its code.

pub(crate) mod advice;
pub(crate) mod compiling;
pub(crate) mod file;
mod functions;
pub(crate) mod initial_data;
pub(crate) mod kept_code;
pub(crate) mod missing;
pub(crate) mod pieces;
pub(crate) mod rewrite;
pub(crate) mod summary;

/// A guest as it is in its file.
pub(crate) struct Content {
    pub bytes: Vec<u8>,
    /// Our own tools made it, for the cache that is used: an interpreter, which is the same in all
    /// that they make.
    pub is_made_here: bool,
}
