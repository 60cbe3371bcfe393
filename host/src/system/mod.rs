//! What the operating system gives: files, processes and memory that others cannot change.

pub mod address_file;
pub mod child;
pub mod confined;
pub mod file;
pub mod folders;
pub mod sealed;
pub mod way;
