//! What the operating system gives: files, processes and memory that others cannot change.

pub(crate) mod address_file;
pub(crate) mod child;
pub(crate) mod file;
pub(crate) mod folders;
pub(crate) mod program;
pub(crate) mod sealed;
pub(crate) mod trusted_path;
