//! The scripts `build` of the folders in `guests`, which install what they need.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{Folder, packages, root};

/// The variable that names a compiler for the scripts of guests in Rust.
const RUST_COMPILER: &str = "WASM_SERVE_RUST_WASM";

/// What the scripts of guests in Rust find in the environment: a folder in which the crates
/// that they use are compiled once, and a compiler, where that is needed. Who builds there
/// is `alone`, since all make a file of one name.
pub fn rust_variables() -> Vec<(&'static str, PathBuf)> {
    let crates = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-guests");
    let compiler = rust_compiler().map(|compiler| (RUST_COMPILER, compiler));
    compiler.into_iter().chain([("CARGO_TARGET_DIR", crates)]).collect()
}

/// A Rust compiler for WebAssembly, where rustup has none and cannot get one: made once
/// for each user, as `.ci/run` makes it, and kept outside of the checkout.
fn rust_compiler() -> Option<PathBuf> {
    if std::env::var_os(RUST_COMPILER).is_some() {
        return None;
    }
    let _alone = alone("rust-compiler");
    let adds = Command::new("rustup").args(["target", "add", "wasm32-wasip2"]).output();
    if adds.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let script = root().join("guests/rust/toolchain");
    let sum = Sha256::digest(std::fs::read(&script).expect("it is there"));
    let sum: String = sum.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let folder = packages::cache().join("wasm-serve").join(format!("rust-wasm-{sum}"));
    let output = Command::new(script).arg(&folder).output().expect("the script can be run");
    assert!(output.status.success(), "toolchain says: {}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

/// Runs `guests/FOLDER/build` for the guest `name`, and gives the file, or folder, that
/// it made.
pub fn build(folder: &str, name: &str) -> PathBuf {
    let _alone = alone(folder);
    run(&root().join("guests").join(folder).join("build"), folder, name)
}

fn run(script: &Path, folder: &str, name: &str) -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut script = Command::new(script);
    if folder.starts_with("rust") {
        script.envs(rust_variables());
    }
    let output = script.arg(&made).env("WASM_SERVE", env!("CARGO_BIN_EXE_wasm-serve")).output();
    let output = output.expect("the script can be run");
    assert!(output.status.success(), "build says: {}", String::from_utf8_lossy(&output.stderr));
    made
}

/// The same for a program of a test, `tests/fixtures/SOURCE`, in place of the folder's own, which
/// is called `own`.
pub fn build_fixture(folder: &str, own: &str, source: &str) -> PathBuf {
    let _alone = alone(folder);
    let project = Folder::new();
    let copied =
        Command::new("cp").arg("-R").arg(root().join("guests").join(folder)).arg(&project.0).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be written", project.0.display());
    let project = project.join(folder);
    fs::copy(root().join("tests/fixtures").join(source), project.join(own)).expect("it is there");
    run(&project.join("build"), folder, &format!("fixture-{source}.wasm"))
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
