//! What can be done beside serving, a file for each.

pub mod build;
pub mod componentize;
pub mod dev;
pub mod inspect;
pub mod new;
mod watched;
