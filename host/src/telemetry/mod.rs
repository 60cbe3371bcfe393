//! What is told and counted.

mod destination;
mod figure;
pub(crate) mod labelled;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod rate_limit;
pub(crate) mod stats;
pub(crate) mod told;
