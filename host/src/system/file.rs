//! Files that are read for what is in them. What is none, such as a named pipe whose
//! other side may never come, is refused instead of waited for, and a disk that does not
//! answer is not waited for without end.

use std::fs::{File, FileType, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;

/// Threads that wait for a disk that may never answer.
static WAITING: AtomicUsize = AtomicUsize::new(0);
const WAITING_MAX: usize = 8;

/// What the user names is not waited for longer.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(30);

/// Opens a file to read it, wherever symbolic links lead.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::empty())
}

/// Opens a file that is no symbolic link itself.
pub(crate) fn open_itself(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::NOFOLLOW)
}

/// The whole content.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    content(open(path)?)
}

/// The whole content of a file that is no symbolic link itself.
pub(crate) fn read_itself(path: &Path) -> io::Result<Vec<u8>> {
    content(open_itself(path)?)
}

fn open_with(path: &Path, more: OFlags) -> io::Result<File> {
    // Opening a pipe without this would wait for who writes into it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    match file.metadata()?.file_type() {
        kind if kind.is_file() => Ok(file),
        kind => Err(io::Error::other(format!("it is {}, not a file", name(kind)))),
    }
}

fn content(mut file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// Does what reads files, for no longer than this time. A thread that then still waits for a
/// disk, such as one that another computer has, is left behind: nothing can end it.
pub(crate) fn within<T: Send + 'static>(
    time_max: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let waits = Waits::begin();
    let is_one_more = waits.0 <= WAITING_MAX;
    let (sender, result) = sync_channel(1);
    let work = move || {
        let done = work();
        drop(waits);
        let _ = sender.send(done);
    };
    ensure!(is_one_more, "cannot be read: earlier ones still wait for a disk");
    std::thread::Builder::new().name("read".into()).spawn(work).context("cannot be read")?;
    result.recv_timeout(time_max).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => {
            bail!("cannot be read: the disk has not answered within {} s", time_max.as_secs_f64())
        }
        RecvTimeoutError::Disconnected => bail!("reading it panicked"),
    })
}

/// What becomes a file of the user's when it is whole: hidden until then, with the mode that
/// the umask gives.
pub(crate) fn unfinished() -> tempfile::Builder<'static, 'static> {
    let mut file = tempfile::Builder::new();
    file.prefix(".wasm-serve-").permissions(Permissions::from_mode(0o666));
    file
}

/// One of those that wait, with their number.
struct Waits(usize);

impl Waits {
    fn begin() -> Waits {
        Waits(WAITING.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_without_end_is_left_behind_and_others_go_on() {
        let (never, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        let wait_for_ever = || {
            let wait = wait.clone();
            within(Duration::from_millis(1), move || Ok(wait.lock().unwrap().recv()))
        };
        for _ in 0..WAITING_MAX {
            assert!(wait_for_ever().unwrap_err().to_string().contains("has not answered"));
        }
        assert!(wait_for_ever().is_err());
        drop(never);
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while within(Duration::from_secs(60), || Ok(())).is_err() {
            assert!(std::time::Instant::now() < end);
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for (path, name) in
            [(folder.path(), "a folder"), (&pipe, "a named pipe"), (Path::new("/dev/zero"), "a device")]
        {
            assert!(read(path).unwrap_err().to_string().contains(name), "{name}");
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert!(read(&folder.path().join("link")).is_ok());
        assert!(read_itself(&folder.path().join("link")).is_err());
    }
}
