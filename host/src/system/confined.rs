//! A program that can write nowhere but in one folder, whatever it is told by those whose
//! code it runs.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::child;

/// The task's name on the command line.
pub(crate) const TASK: &str = "own-task-confined";

/// Programs open it to write what nobody wants.
const NOWHERE: &str = "/dev/null";

/// A program that can write only in `folder`, and has no network.
pub(crate) fn command(program: &str, folder: &Path) -> Command {
    let mut command = child::own_program(TASK);
    command.arg("--writable").arg(folder).arg("--").arg(program);
    command
}

/// The same program without these bounds. It ends with this one.
pub(crate) fn unconfined(program: &str) -> Command {
    let mut command = child::own_program(TASK);
    command.arg("--").arg(program);
    command
}

/// What the process does, which `parent` has started: it becomes the program, which is
/// named with its arguments.
pub(crate) fn run(parent: u32, writable: Option<&Path>, program: &[OsString]) -> Result<ExitCode> {
    child::begin(parent)?;
    if let Some(folder) = writable {
        confine(folder).context(
            "the system cannot keep what is built from writing elsewhere, for which Linux 5.13 or later with Landlock is needed; build it with `wasm-serve build` where that is there, or trust all modules with --unconfined-build",
        )?;
    }
    let (program, arguments) = program.split_first().context("a program must be named")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("`{}` cannot be run", program.display()))
}

/// What the first version of Landlock cannot do, which is to let files be moved between folders, is
/// then forbidden; cutting a file needs the right to write into it in any case, by way of WASI.
fn confine(folder: &Path) -> Result<()> {
    let writing = AccessFs::from_write(ABI::V5);
    let into_file = writing & AccessFs::from_file(ABI::V5);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writing)?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(folder)?, writing))?
        .add_rule(PathBeneath::new(PathFd::new(NOWHERE)?, into_file))?
        .restrict_self()?;
    ensure!(status.ruleset != RulesetStatus::NotEnforced, "Landlock is not there");
    Ok(())
}
