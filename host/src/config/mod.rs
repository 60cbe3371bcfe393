//! The command line, turned into checked values before anything is opened or
//! bound. Nothing else in the program reads arguments or the environment.
#![allow(clippy::disallowed_methods, reason = "this is the room that reads the environment")]

mod cache;
mod calls;
mod check;
mod command_line;
mod deferred;
mod dev;
mod grants;
mod hints;
mod keyvalue;
mod machine;
mod named_values;
mod options;
mod outbound;
mod paths;
mod project;
mod python;
mod serve;
mod tasks;
mod values;

pub use self::cache::CacheOptions;
pub use self::calls::{Calls, CallsTask};
pub use self::command_line::{CommandLine, Inspect, Task, Work};
pub use self::options::Options;
pub use self::project::{Build, Componentize, Dev, Language, Made, New, own_program};
pub use self::python::PythonOptions;
pub use self::serve::Settings;
pub use self::tasks::{Compiling, Importing, Running};
pub use self::values::{Bytes, Seconds};
