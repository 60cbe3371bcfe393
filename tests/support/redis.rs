//! A real Redis, of the distribution's package, in a folder of its own: nothing of it is
//! installed or started for the system.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::packages::cache;
use super::{Folder, root, wait_for};

/// What it wants of its clients.
pub const PASSWORD: &str = "secret";

/// It is stopped when it is dropped.
pub struct Redis {
    child: Child,
    pub address: SocketAddr,
    _folder: Folder,
}

impl Redis {
    pub fn start() -> Redis {
        let folder = Folder::new();
        // Another program may take the port in between; then Redis ends, and so does the test.
        let address =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let program = program();
        let mut command = Command::new(&program);
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--requirepass", PASSWORD, "--save", "", "--dir"])
            .arg(&folder.0)
            .env("LD_LIBRARY_PATH", program.parent().unwrap_or(Path::new("/")));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("Redis can be started");
        let mut redis = Redis { child, address, _folder: folder };
        wait_for("Redis to listen", || {
            assert!(redis.child.try_wait().expect("a child").is_none(), "Redis ended");
            std::net::TcpStream::connect(address).ok()
        });
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program: what the variable names, or the system has, or the package has in it.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("WASM_SERVE_TEST_REDIS") {
        return named.into();
    }
    let installed = ["/usr/bin/redis-server", "/usr/local/bin/redis-server"];
    if let Some(path) = installed.iter().map(Path::new).find(|path| path.is_file()) {
        return path.to_owned();
    }
    let folder = cache().join("wasm-serve/tests/redis");
    let file = folder.join("redis-server");
    if !file.is_file() {
        let made = Command::new(root().join("tests/support/redis")).arg(&folder).output();
        let made = made.expect("the script can be run");
        assert!(made.status.success(), "no Redis: {}", String::from_utf8_lossy(&made.stderr));
    }
    file
}
