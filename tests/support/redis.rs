//! A real Redis, of the distribution's package, in a folder of its own: nothing of it is
//! installed or started for the system.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::packages::{self, cache};
use super::{Folder, wait_for};

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

fn program() -> PathBuf {
    let installed = ["/usr/bin/redis-server", "/usr/local/bin/redis-server"];
    let folder = cache().join("wasm-serve/tests/redis");
    packages::program("WASM_SERVE_TEST_REDIS", &installed, "redis", folder, "redis-server")
}
