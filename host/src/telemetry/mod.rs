//! What is told and counted.

pub mod allowance;
mod figure;
pub mod lines;
pub mod log;
pub mod stats;
mod target;
