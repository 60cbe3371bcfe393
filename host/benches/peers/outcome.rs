//! What a scenario leaves for the end of the report. It prints its tables itself.

use crate::picture::Chart;
use crate::report::Bar;

#[derive(Default)]
pub struct Outcome {
    pub bars: Vec<Bar>,
    pub charts: Vec<Chart>,
}
