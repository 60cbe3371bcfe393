//! What a guest writes to a file by a stream. As wasmtime's own, but that the locks of the
//! instance stay until the last write is done: it may be under way in a thread when the
//! instance is ended.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, pwritev2};
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::locks::Locks;

/// Bytes of one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Where the next byte goes.
#[derive(Clone, Copy)]
pub(crate) enum Position {
    At(u64),
    End,
}

/// A file that is written from a position on.
pub(crate) struct Written {
    file: Arc<File>,
    position: Position,
    locks: Locks,
    /// The thread that runs the guest may wait for a disk.
    may_block: bool,
    write: Write,
}

enum Write {
    None,
    UnderWay(JoinHandle<io::Result<()>>),
    Failed(io::Error),
    Ended,
}

impl Written {
    pub(crate) fn new(file: Arc<File>, position: Position, locks: Locks, may_block: bool) -> Written {
        Written { file, position, locks, may_block, write: Write::None }
    }

    fn begin(&mut self, bytes: Bytes) {
        let (file, position, locks) = (self.file.clone(), self.position, self.locks.clone());
        if let Position::At(offset) = &mut self.position {
            *offset = offset.saturating_add(bytes.len() as u64);
        }
        let work = move || {
            let _until_done = locks;
            write_all(&file, &bytes, position)
        };
        self.write = match self.may_block {
            true => Write::from(work()),
            false => Write::UnderWay(spawn_blocking(work)),
        };
    }

    /// Nothing is under way and nothing failed.
    fn check(&mut self) -> StreamResult<bool> {
        match std::mem::replace(&mut self.write, Write::Ended) {
            Write::None => {
                self.write = Write::None;
                Ok(true)
            }
            Write::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            Write::Ended => Err(StreamError::Closed),
            under_way => {
                self.write = under_way;
                Ok(false)
            }
        }
    }
}

impl From<io::Result<()>> for Write {
    fn from(written: io::Result<()>) -> Write {
        match written {
            Ok(()) => Write::None,
            Err(error) => Write::Failed(error),
        }
    }
}

impl Drop for Written {
    /// What has not begun does not begin any more.
    fn drop(&mut self) {
        if let Write::UnderWay(write) = &self.write {
            write.abort();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Written {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !matches!(self.check(), Ok(true)) || bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("writes more than `check-write` allows"));
        }
        self.begin(bytes);
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.check()?;
        self.begin(bytes);
        self.ready().await;
        self.check()?;
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()?;
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.check()? { WRITE_BYTES_MAX } else { 0 })
    }

    /// A guest that drops the stream waits for the write, so that it cannot have more of
    /// them under way than it has streams.
    async fn cancel(&mut self) {
        if let Write::UnderWay(write) = &self.write {
            write.abort();
        }
        self.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Written {
    async fn ready(&mut self) {
        if let Write::UnderWay(write) = &mut self.write {
            self.write = Write::from(write.await.unwrap_or_else(|error| Err(io::Error::other(error))));
        }
    }
}

fn write_all(file: &File, mut bytes: &[u8], position: Position) -> io::Result<()> {
    let Position::At(offset) = position else {
        while !bytes.is_empty() {
            match append(file, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        return Ok(());
    };
    file.write_all_at(bytes, offset)
}

fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    Ok(pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_by_either_way() {
        for may_block in [false, true] {
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&path, "....").unwrap();
            let file = Arc::new(File::options().write(true).open(&path).unwrap());
            let stream = |position| Written::new(file.clone(), position, Locks::default(), may_block);
            let (mut inside, mut behind) = (stream(Position::At(1)), stream(Position::End));
            assert_eq!(inside.check_write().unwrap(), WRITE_BYTES_MAX);
            inside.write(Bytes::from_static(b"a")).unwrap();
            inside.ready().await;
            inside.blocking_write_and_flush(Bytes::from_static(b"b")).await.unwrap();
            behind.blocking_write_and_flush(Bytes::from_static(b"c")).await.unwrap();
            behind.blocking_write_and_flush(Bytes::from_static(b"d")).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b".ab.cd");
        }
    }

    #[tokio::test]
    async fn a_write_that_fails_is_told_once_and_ends_the_stream() {
        for may_block in [false, true] {
            let file = Arc::new(File::open("/proc/self/exe").unwrap());
            let mut stream = Written::new(file, Position::At(0), Locks::default(), may_block);
            stream.write(Bytes::from_static(b"a")).unwrap();
            stream.ready().await;
            assert!(matches!(stream.check_write(), Err(StreamError::LastOperationFailed(_))));
            assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
        }
    }
}
