//! What everything that is measured is given.

use crate::options::Options;
use crate::peers::Peers;

pub struct Bench {
    pub options: Options,
    pub peers: Peers,
}
