//! Memory: of instances, of stacks, of the server itself, and who pays for it.

pub mod account;
pub mod allocator;
pub mod budget;
pub mod image;
pub mod memories;
pub mod stacks;
