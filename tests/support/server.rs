//! A server as a user starts it: the real program, on a port of its own choice.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::client::{self, Reply};
use super::{Folder, packages, root, wait_for};

/// In place of the address of a server on a Unix socket.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// How a server is to be started.
pub struct Setup {
    command: Command,
    folder: Folder,
    /// Who starts the same application at the same time waits for this file.
    lock: Option<PathBuf>,
}

/// A running server. It is killed when it is dropped.
pub struct Server {
    child: Child,
    /// Where it serves, if that is over TCP.
    pub address: SocketAddr,
    /// What it said before it served: that it builds something.
    pub earlier_lines: Vec<String>,
    /// The lines of standard error up to the first that the log would write.
    pub first_lines: Vec<String>,
    later_lines: mpsc::Receiver<String>,
    pub stats_address: SocketAddr,
    folder: Folder,
}

/// How a server ended.
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
    /// What it said on standard error beside the log.
    pub said: Vec<String>,
}

/// The program with the options that every test wants.
pub fn program() -> Command {
    let mut command = bare_program();
    command.arg("--cache").arg(cache());
    command
}

/// Where all tests keep compiled guests and components, outside of the checkout.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")
}

/// The program, of which nobody reads standard output.
pub fn bare_program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wasm-serve"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // All tests share one installation, whatever cache they have.
    command.env("WASM_SERVE_TOOLS", tools());
    command
}

/// Where tools are, for scripts of guests, too.
pub fn tools() -> PathBuf {
    packages::cache().join("wasm-serve/tools")
}

/// A server for `guest` that logs into a file.
pub fn setup(guest: impl AsRef<Path>) -> Setup {
    setup_for("--guest", guest.as_ref())
}

/// A server for a Python application, started where `numbers.txt` is. Its component
/// depends on where that is, too: tests of one application that stay there share one.
pub fn setup_python(file: impl AsRef<Path>) -> Setup {
    let file = file.as_ref();
    let name = file.file_stem().expect("a file has a name").to_string_lossy();
    let lock = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("building-{name}"));
    let setup = Setup { lock: Some(lock), ..setup_for("--wsgi-file", file) };
    setup.current_dir(&root().join("guests/rust/numbers"))
}

/// `wasm-serve build` for a Python application, with the interpreter that all tests share.
pub fn build(file: &Path, output: &Path, cache: &Path) -> Command {
    let mut command = bare_program();
    command.arg("build").arg("--wsgi-file").arg(file).arg("--output").arg(output).arg("--cache").arg(cache);
    command.arg("--share-hash-seed");
    command
}

/// `wasm-serve dev` for a project.
pub fn setup_dev(project: &Path) -> Setup {
    let mut command = bare_program();
    command.arg("dev").arg(project).arg("--cache").arg(cache());
    setup_with(command)
}

/// A server of an installed program, with these options.
pub fn setup_installed(program: &Path, options: &[String]) -> Setup {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).args(options);
    setup_with(command)
}

fn setup_for(option: &str, file: &Path) -> Setup {
    let mut command = program();
    command.arg(option).arg(file);
    setup_with(command)
}

fn setup_with(mut command: Command) -> Setup {
    let folder = Folder::new();
    command.args(["--http-socket", "127.0.0.1:0", "--stats", "127.0.0.1:0"]);
    command.arg("--logto").arg(folder.join("log"));
    Setup { command, folder, lock: None }
}

impl Setup {
    /// Adds options, written as on a command line.
    pub fn options(mut self, options: &str) -> Setup {
        self.command.args(options.split_whitespace());
        self
    }

    pub fn dir(mut self, folder: &Path) -> Setup {
        self.command.arg("--dir").arg(folder);
        self
    }

    pub fn envs(mut self, variables: Vec<(&str, PathBuf)>) -> Setup {
        self.command.envs(variables);
        self
    }

    pub fn current_dir(mut self, folder: &Path) -> Setup {
        self.command.current_dir(folder);
        self
    }

    /// Adds an option whose value is a path or has spaces.
    pub fn option(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Setup {
        self.command.arg(name).arg(value);
        self
    }

    /// Starts the program under a limit of open files, by way of a shell.
    pub fn open_files_max(self, max: u32) -> Setup {
        self.under(&format!("ulimit -n {max}"))
    }

    /// Starts the program when a shell has run a command.
    pub fn under(mut self, command: &str) -> Setup {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{command}; exec \"$@\"")).arg("sh");
        shell.arg(self.command.get_program()).args(self.command.get_args());
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.command = shell;
        self
    }

    /// Starts it, and waits until it listens.
    pub fn start(mut self) -> Server {
        // Held until it serves: whoever comes next finds the component.
        let _alone = self.lock.take().map(|path| {
            let file = File::create(path).expect("the folder can be written");
            file.lock().expect("the file can be locked");
            file
        });
        let mut child = self.command.spawn().expect("the program can be started");
        let stderr = BufReader::new(child.stderr.take().expect("standard error is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let (mut earlier_lines, mut first_lines) = (Vec::new(), Vec::new());
        while first_lines.len() < 3 {
            match lines.recv_timeout(Duration::from_secs(120)) {
                Ok(line) if first_lines.is_empty() && !line.starts_with("Serving HTTP on") => {
                    earlier_lines.push(line);
                }
                Ok(line) => first_lines.push(line),
                Err(_) => panic!("the server did not start; it said {earlier_lines:?} {first_lines:?}"),
            }
        }
        let address = |line: &str| -> Option<SocketAddr> {
            line.split("http://").nth(1).unwrap_or_default().trim_end_matches('/').parse().ok()
        };
        Server {
            address: address(&first_lines[0]).unwrap_or(NOWHERE),
            stats_address: address(&first_lines[2]).expect("an address in the third line"),
            child,
            earlier_lines,
            first_lines,
            later_lines: lines,
            folder: self.folder,
        }
    }
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `GET path` on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        client::get(self.address, path)
    }

    /// The figures of `--stats`.
    pub fn stats(&self) -> Value {
        let reply = client::get(self.stats_address, "/stats");
        serde_json::from_slice(&reply.body).expect("/stats is JSON")
    }

    /// A figure by its path, such as `/deferred/done`.
    pub fn figure(&self, path: &str) -> u64 {
        let stats = self.stats();
        stats.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path} in {stats:#}"))
    }

    /// Waits until a figure is what it should be.
    pub fn wait_for_figure(&self, path: &str, value: u64) {
        wait_for(&format!("{path} to be {value}"), || (self.figure(path) == value).then_some(()));
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What the log holds by now.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until the log has a line with `text`, and gives it.
    pub fn wait_for_line(&self, text: &str) -> String {
        wait_for(&format!("a line with {text:?}"), || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Whether a line with `text` has come on standard error since it serves.
    pub fn said(&self, text: &str) -> bool {
        self.later_lines.try_iter().any(|line| line.contains(text))
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} failed");
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until it ends.
    pub fn wait(mut self) -> Ended {
        let status =
            wait_for("the server to end", || self.child.try_wait().expect("the server can be waited for"));
        Ended { status, log: self.log(), said: self.later_lines.iter().collect() }
    }

    /// Bytes of memory that are in use.
    pub fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS")
    }

    /// A count of the kernel's, such as `VmRSS` or `VmHWM`, the most that was in
    /// use at once.
    pub fn memory_bytes(&self, name: &str) -> u64 {
        self.status_number(name) * 1024
    }

    /// A number that the kernel shows of the process.
    pub fn status_number(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux shows it");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Files and sockets that are open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
