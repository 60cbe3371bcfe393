//! How a file's content is read: at once, as far as the system has it in memory. Only
//! for what it would have to wait for is the read handed to a thread that may block.
//! wasmtime's own streams hand over every read that a guest does not call a blocking
//! one, and those of most languages do not.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use super::lookup;
use crate::memory::account::OnNoAccount;

/// Bytes of one read, whatever the guest asks for.
const READ_BYTES_MAX: usize = 64 << 10;

/// Bytes that are read before a guest says how many it wants.
const AHEAD_BYTES: usize = 4096;

/// A file's content from an offset on.
pub(crate) struct Content {
    file: Arc<File>,
    offset: u64,
    /// The thread that runs the guest may wait for a disk.
    may_block: bool,
    read: Read,
}

enum Read {
    None,
    UnderWay(JoinHandle<io::Result<Bytes>>),
    /// What the guest has not taken yet. Nothing is the end.
    Done(Bytes),
    Failed(io::Error),
    Ended,
}

impl Content {
    pub(crate) fn new(file: Arc<File>, offset: u64, may_block: bool) -> Content {
        Content { file, offset, may_block, read: Read::None }
    }

    fn begin(&mut self, bytes: usize) {
        let at_once = match self.may_block {
            true => Some(read_at(&self.file, bytes, self.offset)),
            false => read_at_once(&self.file, bytes, self.offset).map(Ok),
        };
        self.read = match at_once {
            Some(read) => Read::from(read),
            None => {
                let (file, offset) = (self.file.clone(), self.offset);
                Read::UnderWay(spawn_blocking(move || read_at(&file, bytes, offset)))
            }
        };
    }
}

impl From<io::Result<Bytes>> for Read {
    fn from(read: io::Result<Bytes>) -> Read {
        match read {
            Ok(data) if data.is_empty() => Read::Ended,
            Ok(data) => Read::Done(data),
            Err(error) => Read::Failed(error),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Content {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        if let Read::None = self.read {
            self.begin(size);
        }
        match std::mem::replace(&mut self.read, Read::Ended) {
            Read::Done(mut data) => {
                let taken = data.split_to(size.min(data.len()));
                self.offset += taken.len() as u64;
                self.read = if data.is_empty() { Read::None } else { Read::Done(data) };
                Ok(taken)
            }
            Read::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            Read::Ended => Err(StreamError::Closed),
            under_way => {
                self.read = under_way;
                Ok(Bytes::new())
            }
        }
    }

    /// What is read ahead for a guest that only waits is less than it may want.
    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        if let Read::None = self.read {
            self.begin(size.max(AHEAD_BYTES));
        }
        self.ready().await;
        self.read(size)
    }

    /// A guest that drops the stream waits for the read, so that it cannot have more of
    /// them under way than it has streams.
    async fn cancel(&mut self) {
        if let Read::UnderWay(_) = self.read {
            self.ready().await;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Content {
    async fn ready(&mut self) {
        if let Read::None = self.read {
            self.begin(AHEAD_BYTES);
        }
        if let Read::UnderWay(read) = &mut self.read {
            let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            // A copy that is made here is on the account of the guest, who may keep it.
            self.read = Read::from(read.map(|data| Bytes::copy_from_slice(&data)));
        }
    }
}

thread_local! {
    /// Most files are smaller than what guests ask for: making room for all of that
    /// would cost more than reading them.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new({
        let _for_the_server = OnNoAccount::begin();
        vec![0; READ_BYTES_MAX]
    });
}

/// Waits for the disk.
pub(crate) fn read_at(file: &File, bytes: usize, offset: u64) -> io::Result<Bytes> {
    BUFFER.with_borrow_mut(|buffer| {
        let bytes = bytes.min(READ_BYTES_MAX);
        loop {
            match file.read_at(&mut buffer[..bytes], offset) {
                Ok(count) => return Ok(Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// None if the system would have to wait, or cannot tell.
pub(crate) fn read_at_once(file: &File, bytes: usize, offset: u64) -> Option<Bytes> {
    // An offset of -1 would be the file's own position.
    if offset > i64::MAX as u64 || !*lookup::SYSTEM_TELLS {
        return None;
    }
    BUFFER.with_borrow_mut(|buffer| {
        let bytes = bytes.min(READ_BYTES_MAX);
        let into = &mut [IoSliceMut::new(&mut buffer[..bytes])];
        let count = preadv2(file, into, offset, ReadWriteFlags::NOWAIT).ok()?;
        Some(Bytes::copy_from_slice(&buffer[..count]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_no_file_has_is_an_error() {
        let file = File::open("/proc/self/exe").unwrap();
        for offset in [u64::MAX, 1 << 63] {
            assert!(read_at_once(&file, 4, offset).is_none());
            assert_eq!(read_at(&file, 4, offset).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn a_read_that_waits_brings_what_is_wanted() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, vec![1; 20_000]).unwrap();
        let mut content = Content::new(Arc::new(File::open(&path).unwrap()), 0, false);
        assert_eq!(content.blocking_read(1).await.unwrap().len(), 1);
        assert_eq!(content.blocking_read(20_000).await.unwrap().len(), AHEAD_BYTES - 1);
        assert_eq!(content.blocking_read(20_000).await.unwrap().len(), 20_000 - AHEAD_BYTES);
        assert!(matches!(content.blocking_read(1).await, Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn content_comes_whole_by_either_way() {
        let path = std::env::temp_dir().join(format!("wasm-serve-content-{}", std::process::id()));
        let whole: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        std::fs::write(&path, &whole).unwrap();
        for may_block in [false, true] {
            let file = Arc::new(File::open(&path).unwrap());
            let mut content = Content::new(file, 1, may_block);
            let mut read = Vec::new();
            loop {
                match content.read(70_000) {
                    Ok(data) if data.is_empty() => content.ready().await,
                    Ok(data) => read.extend(data),
                    Err(error) => break assert!(matches!(error, StreamError::Closed)),
                }
            }
            assert!(read == whole[1..]);
        }
        std::fs::remove_file(path).unwrap();
    }
}
