//! What is wrong with an application's file and can be told before anything is installed or
//! built: a syntax error, or that there is no such callable.

use std::io::Seek;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::application::Application;
use crate::guest::file::MAGIC;
use crate::system::child;
use crate::system::program;
use crate::system::sealed::Sealed;

const LOOK: &str = include_str!("../../../guests/python/first_look.py");
/// CPython's in components.
const VERSION: &str = "3.14";
/// Exit codes of the script: it is wrong, or another version of Python says so.
const WRONG: i32 = 10;
const PERHAPS_WRONG: i32 = 11;
/// Who waits for it longer learns the same from the build.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Has the file, whose content is `source`, looked at by the host's Python, which executes
/// nothing of it. What that cannot tell, the build will.
pub(super) fn check(application: &Application, source: &[u8], tell: &dyn Fn(&str)) -> Result<()> {
    ensure!(!source.starts_with(MAGIC), "is WebAssembly, not Python; serve it with --guest");
    let mut python = program::ending_with_this("python3");
    python.args(["-I", "-S", "-W", "ignore", "-c", LOOK]).arg(&application.file);
    python.args([&application.callable, VERSION]).args(&application.folders);
    let source = Sealed::new("application", source)?;
    source.file().rewind()?;
    python.stdin(Stdio::from(source.into_file()));
    let Ok(output) = child::run(python, TIME_MAX) else { return Ok(()) };
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    match output.status.code() {
        Some(WRONG) => bail!("no component can be made of it:\n{said}"),
        Some(PERHAPS_WRONG) => {
            tell(&format!(
                "the host's Python, which is not {VERSION}, cannot read it; it is tried all the same:\n{said}"
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}
