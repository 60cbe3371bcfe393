//! The scripts `build` of the folders in `guests`, which install what they need.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::root;

/// Runs `guests/FOLDER/build` for the guest `name`, and gives the file, or folder, that
/// it made.
pub fn build(folder: &str, name: &str) -> PathBuf {
    let _alone = alone(folder);
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut script = Command::new(root().join("guests").join(folder).join("build"));
    let output = script.arg(&made).env("WASM_SERVE", env!("CARGO_BIN_EXE_wasm-serve")).output();
    let output = output.expect("the script can be run");
    assert!(output.status.success(), "build says: {}", String::from_utf8_lossy(&output.stderr));
    made
}

/// Held while the tools of a language are installed, which more than one test wants.
/// `folder` is one in `guests`, or within one of those.
pub fn alone(folder: &str) -> File {
    let language = folder.split('/').next().unwrap_or(folder);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("building-{language}"));
    let file = File::create(path).expect("the folder can be written");
    file.lock().expect("the file can be locked");
    file
}
