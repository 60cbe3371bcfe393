//! The other servers and the load generators: that they are installed, and where.
//! The script `install` beside this file does the work; it is idempotent.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::options::Peer;
use crate::support::root;

pub struct Peers {
    folder: PathBuf,
    without: Vec<Peer>,
}

impl Peers {
    /// Installs what is not there yet. The script says what, on standard error.
    pub fn install(without: &[Peer]) -> Result<Peers> {
        let script = root().join("host/benches/peers/install");
        // Debian's packages hold the load generators, too, and so are always needed.
        let mut wanted = vec!["debian", "oha"];
        let peers = [
            (Peer::Go, "go"),
            (Peer::Wasmtime, "wasmtime"),
            (Peer::Gunicorn, "gunicorn"),
            (Peer::Granian, "granian"),
        ];
        for (peer, name) in peers {
            if !without.contains(&peer) {
                wanted.push(name);
            }
        }
        let output = Command::new(&script).args(wanted).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| script.display().to_string())?;
        ensure!(output.status.success(), "not all peers could be installed; `--without PEER` leaves one out");
        let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
        Ok(Peers { folder, without: without.to_vec() })
    }

    pub fn has(&self, peer: Peer) -> bool {
        !self.without.contains(&peer)
    }

    pub fn without(&self) -> &[Peer] {
        &self.without
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// The folder of Debian's packages: what would be `/` if they were installed.
    pub fn debian(&self) -> PathBuf {
        self.folder.join("debian/root")
    }

    /// The folder of a Python package with what it needs.
    pub fn python_packages(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("packages")
    }

    /// A program of Debian's packages, with the libraries that came with it.
    pub fn debian_program(&self, name: &str) -> Command {
        let mut command = bounded(self.program(name));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    /// The path on which the programs of Debian's packages find their libraries.
    pub fn libraries(&self) -> PathBuf {
        let folder = |name: &str| self.debian().join(name).join("x86_64-linux-gnu").into_os_string();
        let mut path = folder("usr/lib");
        path.push(":");
        path.push(folder("lib"));
        path.into()
    }
}

/// A program that does not outlive the benchmark, whatever that dies of.
/// `setpriv` of util-linux becomes the program, so there is no process in between.
pub fn bounded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    // With it, every error value of a server in Rust would cost a walk over the stack.
    command.env_remove("RUST_BACKTRACE");
    command
}

/// This benchmark itself, to be the bare hyper server.
pub fn itself() -> Result<PathBuf> {
    std::env::current_exe().context("the benchmark does not know its own file")
}

/// The server that all this is about.
pub fn wasm_serve() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_wasm-serve"))
}
