//! A guest that can be called, and its instances.

pub mod cgi;
pub mod guest;
pub mod instance;
pub mod link;
pub mod load;
pub mod reuse;
pub mod stripped;
