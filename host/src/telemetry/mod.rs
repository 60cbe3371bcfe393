//! What is told and counted.

pub(crate) mod allowance;
mod figure;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod stats;
mod target;
