//! What is told and counted.

pub mod allowance;
mod figure;
pub mod log;
pub mod stats;
