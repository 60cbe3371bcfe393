//! A real PostgreSQL, of the distribution's packages, in a folder of its own: nothing of it is
//! installed or started for the system. It runs as a user who can do nothing else, if the tests
//! run as root, since it refuses to run as root.

use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::packages::{self, cache};
use super::tls::Authority;
use super::{Folder, wait_for};

/// Who may do everything there, and the name of a database.
pub const USER: &str = "postgres";

/// What it wants of its clients (SCRAM-SHA-256).
pub const PASSWORD: &str = "secret";

/// The user `nobody`, and its group.
const NOBODY: u32 = 65534;

/// It is stopped when it is dropped, or at the latest when the thread ends that started it.
pub struct Postgres {
    child: Child,
    /// It speaks TLS there to who asks for it.
    pub address: SocketAddr,
    programs: Programs,
    folder: Folder,
}

impl Postgres {
    /// One whose certificate is of this authority, for `localhost` and `127.0.0.1`.
    pub fn start(authority: &Authority) -> Postgres {
        let folder = Folder::new();
        let is_root = fs::metadata(&folder.0).expect("it is there").uid() == 0;
        let user = is_root.then_some(NOBODY);
        let programs = Programs::find(is_root.then_some(&folder));
        let (certificate, key) = authority.certificate(&["localhost", "127.0.0.1"]);
        let files =
            [("crt", certificate.pem()), ("key", key.serialize_pem()), ("password", PASSWORD.to_owned())];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).expect("the folder can be written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
            chown(&path, user, user).expect("it is ours");
        }
        chown(&folder.0, user, user).expect("it is ours");
        let made = programs
            .command("initdb", user, &folder)
            .args(["--no-sync", "--no-locale", "--encoding", "UTF8", "--auth", "scram-sha-256"])
            .args(["--username", USER, "--pwfile", "password", "--pgdata", "data"])
            .output();
        let made = made.expect("initdb can be run");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Postgres::serve(programs, user, folder)
    }

    fn serve(programs: Programs, user: Option<u32>, folder: Folder) -> Postgres {
        // Another program may take the port in between; then PostgreSQL ends, and so does the test.
        let address =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let at = folder.0.display();
        let child = programs
            .command("postgres", user, &folder)
            .args(["-D", "data", "-F", "-h", "127.0.0.1", "-p", &address.port().to_string()])
            .args(["-c", &format!("unix_socket_directories={at}"), "-c", "jit=off", "-c", "ssl=on"])
            .args(["-c", &format!("ssl_cert_file={at}/crt"), "-c", &format!("ssl_key_file={at}/key")])
            .stderr(File::create(folder.join("log")).expect("the folder can be written"))
            .spawn()
            .expect("postgres can be started");
        let mut postgres = Postgres { child, address, programs, folder };
        wait_for("PostgreSQL to be ready", || {
            let has_ended = postgres.child.try_wait().expect("a child").is_some();
            assert!(!has_ended, "PostgreSQL ended: {}", postgres.log());
            // Its own pg_ctl looks there, too.
            let told = fs::read_to_string(postgres.folder.join("data/postmaster.pid")).ok()?;
            told.lines().last().filter(|line| line.trim() == "ready").map(|_| ())
        });
        postgres
    }

    /// What comes of these statements: rows as lines, with `|` between their columns.
    pub fn execute(&self, statements: &str) -> String {
        let done = Command::new(self.programs.bin.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"])
            .args(["--dbname", &self.url(), "--command", statements])
            .env("LD_LIBRARY_PATH", &self.programs.libraries)
            .output()
            .expect("psql can be started");
        assert!(done.status.success(), "{statements}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("it is UTF-8").trim_end().to_owned()
    }

    /// How its clients are told of it.
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@{}/{USER}", self.address)
    }

    /// What it has to say.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It ends its own processes.
        let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        let _ = self.child.wait();
    }
}

struct Programs {
    bin: PathBuf,
    libraries: PathBuf,
}

impl Programs {
    /// One that does not outlive a test process that is killed.
    fn command(&self, name: &str, user: Option<u32>, folder: &Folder) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]).arg(self.bin.join(name)).current_dir(&folder.0);
        command.env("LD_LIBRARY_PATH", &self.libraries).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Where they are, or a copy in the folder, for a user who cannot look into that of root.
    fn find(copied_to: Option<&Folder>) -> Programs {
        let mut program = program();
        if let Some(folder) = copied_to.filter(|_| program.starts_with(cache())) {
            let copy = folder.join("programs");
            let copied = Command::new("cp").arg("-R").arg(parent(&program)).arg(&copy).status();
            assert!(copied.is_ok_and(|status| status.success()), "{} cannot be written", copy.display());
            program = copy.join("postgres");
        }
        let whole = program.canonicalize().expect("PostgreSQL is there");
        Programs { bin: parent(&whole).to_owned(), libraries: parent(&program).to_owned() }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("it is in a folder")
}

fn program() -> PathBuf {
    // Distributions have a folder for each version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<String> =
        versions.map(|version| version.path().join("bin/postgres").display().to_string()).collect();
    installed.extend(["/usr/bin/postgres".to_owned(), "/usr/local/bin/postgres".to_owned()]);
    let installed: Vec<&str> = installed.iter().map(String::as_str).collect();
    let folder = cache().join("wasm-serve/tests/postgres");
    packages::program("WASM_SERVE_TEST_POSTGRES", &installed, "postgres", folder, "postgres")
}
