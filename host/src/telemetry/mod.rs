//! What is told and counted.

pub mod allowance;
pub mod log;
pub mod stats;
