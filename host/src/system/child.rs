//! Work for which a process of its own is started: it can be ended when it takes too long,
//! what it took is given back when it ends, and it ends with the server.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a process may say, on each of standard output and standard error. The rest is lost.
const SAID_BYTES_MAX: u64 = 1 << 20;

/// This program once more, to do the task of this name. It is the program that runs, even
/// if another one is in its place by now.
pub(crate) fn own_program(task: &str) -> Command {
    let mut program = Command::new("/proc/self/exe");
    program.arg(task).arg("--parent").arg(std::process::id().to_string());
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    program
}

/// A file of this process, as a process that it starts can open it.
pub(crate) fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Runs a program to its end, or to that of the time that it may take, or to this
/// thread's. It gives what the program said if that is not sent elsewhere.
pub(crate) fn run(program: Command, time_max: Duration) -> Result<Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut program = tokio::process::Command::from(program);
        // Signals of a terminal are for the server, which ends it.
        let mut child = program.process_group(0).kill_on_drop(true).spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (status, stdout, stderr) = tokio::join!(child.wait(), read(stdout), read(stderr));
            Ok::<Output, io::Error>(Output { status: status?, stdout, stderr })
        };
        let ended = tokio::time::timeout(time_max, ended).await;
        Ok(ended.with_context(|| format!("it has not ended within {} s", time_max.as_secs_f64()))??)
    })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(SAID_BYTES_MAX).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    said
}

/// What a program said, standard error last.
pub(crate) fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// What a process of this program does first: it ends when its parent does.
pub(crate) fn begin(parent: u32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before.
    if getppid().map(Pid::as_raw_pid) != Some(parent as i32) {
        bail!("this is a task of a server's own, and the server is gone");
    }
    Ok(())
}

/// The first to be ended when the system has no more memory.
pub(crate) fn dies_first() {
    let _ = File::options()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| file.write_all(b"1000"));
}

/// How a process ended that did not do what it was to do.
pub(crate) fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal().map(|signal| (signal, Signal::from_named_raw(signal))) {
        Some((_, Some(Signal::KILL))) => "it was killed, as when the system has no more memory".to_owned(),
        _ => status.to_string(),
    }
}
