//! A guest's file: what is read of it, and what it is if it is no WebAssembly.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use wasmparser::BinaryReaderError;

use crate::system::file;

/// What every WebAssembly file begins with.
pub(crate) const MAGIC: &[u8] = b"\0asm";
/// No guest is larger.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// As much of a file that is not WebAssembly is read, to say what it is instead.
const OTHER_FILE_BYTES: u64 = 4096;

/// The content of the guest's file; of one that is not WebAssembly, the beginning.
pub(crate) fn content(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut read = || {
        let mut file = file::open(file)?;
        file.by_ref().take(OTHER_FILE_BYTES).read_to_end(&mut bytes)?;
        if bytes.starts_with(MAGIC) {
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        }
        Ok::<(), std::io::Error>(())
    };
    read().context("cannot be read")?;
    ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, "is larger than {} GiB", FILE_BYTES_MAX >> 30);
    Ok(bytes)
}

/// Says what is wrong with a file that begins as WebAssembly does.
pub(crate) fn invalid(bytes: &[u8], error: &BinaryReaderError) -> anyhow::Error {
    if error.message().contains("unexpected end") {
        let end = bytes.len();
        return anyhow::anyhow!(
            "is not valid WebAssembly: it is cut off, or damaged: it ends at byte {end}, within a section; copy it again, or build it again"
        );
    }
    anyhow::anyhow!("is not valid WebAssembly: {error}; copy it again, or build it again")
}

/// It begins as WebAssembly does. The error says what it is instead, and what to do.
pub(crate) fn check(bytes: &[u8]) -> Result<()> {
    ensure!(bytes.starts_with(MAGIC), "{}", other_kind(bytes));
    Ok(())
}

/// Says what a file is that does not begin as WebAssembly does, with what to do.
fn other_kind(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        return "is not WebAssembly: it is empty";
    }
    if MAGIC.starts_with(bytes) {
        return "is not WebAssembly: it is cut off; copy it again, or build it again";
    }
    if bytes.starts_with(b"\x7fELF") {
        return "is not WebAssembly: it is machine code; take the `.wasm` that it was made of, or build its source for WebAssembly";
    }
    if bytes.starts_with(b"\x1f\x8b")
        || bytes.starts_with(b"PK\x03\x04")
        || bytes.starts_with(b"\x28\xb5\x2f\xfd")
    {
        return "is not WebAssembly: it is compressed; unpack it";
    }
    let is_text = |bytes: &[u8]| !bytes.iter().any(|byte| *byte < b' ' && !b"\t\n\x0c\r".contains(byte));
    if !is_text(bytes) {
        return "is not WebAssembly";
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.find(|line| !["//", ";;", "#"].iter().any(|comment| line.starts_with(comment))) {
        Some(line) if line.starts_with('(') => {
            "is WebAssembly in text form; make the binary form of it, for example with `wasm-tools parse`"
        }
        Some(line) if line.starts_with("package ") && line.contains(':') => {
            "is not WebAssembly: it is WIT, which describes interfaces; build a program for one of its worlds"
        }
        _ => {
            "is not WebAssembly: it is a text; a Python application is served with `--wsgi-file`, other sources have to be compiled first"
        }
    }
}
