//! Memory: of instances, of stacks, of the server itself, and who pays for it.

pub mod account;
pub mod allocator;
pub mod budget;
pub mod charging;
pub mod image;
mod mapping;
pub mod memories;
mod pagemap;
mod space;
pub mod stacks;
pub mod views;
