//! Whether what was named is there. If not, that is a usage error, whichever option named it;
//! what else may be wrong with it is told by who opens it.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::system::file;

/// A file that is to be read.
pub(super) fn check_file(named_by: &str, file: &Path) -> Result<()> {
    ensure!(file != Path::new("-"), "{named_by}-: standard input is not read; name a file");
    ensure!(!is_missing(file), "{named_by}{}: there is no such file", file.display());
    Ok(())
}

/// A folder.
pub(super) fn check_folder(named_by: &str, folder: &Path) -> Result<()> {
    ensure!(!is_missing(folder), "{named_by}{}: there is no such folder", folder.display());
    Ok(())
}

/// The folder in which a file is to be made.
pub(super) fn check_folder_of(named_by: &str, file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let is_folder = folder.is_none_or(|folder| folder.is_dir());
    ensure!(is_folder, "{named_by}{}: there is no such folder", file.display());
    Ok(())
}

/// It may lie on a disk that does not answer.
fn is_missing(path: &Path) -> bool {
    let path = path.to_owned();
    let looked = file::within(file::TIME_MAX, move || Ok(path.metadata()));
    let is_missing = |kind: ErrorKind| matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory);
    matches!(looked, Ok(Err(error)) if is_missing(error.kind()))
}
