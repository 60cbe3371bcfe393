//! What is around an instance: its state, its time, and what the host gives it.

pub mod deadline;
pub mod host;
pub mod imports;
pub mod meta_variables;
pub mod state;
pub mod transfer;
