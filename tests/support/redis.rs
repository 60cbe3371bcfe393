//! A real Redis, of the distribution's package, in a folder of its own: nothing of it is
//! installed or started for the system.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::packages::{self, cache};
use super::tls::Authority;
use super::{Folder, wait_for};

/// What it wants of its clients.
pub const PASSWORD: &str = "secret";

/// It is stopped when it is dropped.
pub struct Redis {
    child: Child,
    pub address: SocketAddr,
    scheme: &'static str,
    _folder: Folder,
}

impl Redis {
    pub fn start() -> Redis {
        Redis::start_in(Folder::new(), "redis", |port, _| vec!["--port".into(), port])
    }

    /// One that is reached by TLS alone. Its certificate is of this authority, for `localhost` and `127.0.0.1`.
    pub fn start_tls(authority: &Authority) -> Redis {
        let folder = Folder::new();
        let (certificate, key) = authority.certificate(&["localhost", "127.0.0.1"]);
        fs::write(folder.join("crt"), certificate.pem()).expect("the folder can be written");
        fs::write(folder.join("key"), key.serialize_pem()).expect("the folder can be written");
        Redis::start_in(folder, "rediss", |port, folder| {
            let file = |name| folder.join(name).display().to_string();
            let files = ["--tls-cert-file".into(), file("crt"), "--tls-key-file".into(), file("key")];
            let others = ["--port", "0", "--tls-auth-clients", "no", "--tls-port"].map(str::to_owned);
            files.into_iter().chain(others).chain([port]).collect()
        })
    }

    /// One in this folder, with these options for its port.
    fn start_in(
        folder: Folder,
        scheme: &'static str,
        options: impl Fn(String, &Folder) -> Vec<String>,
    ) -> Redis {
        // Another program may take the port in between; then Redis ends, and so does the test.
        let address =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let program = program();
        let mut command = Command::new(&program);
        command
            .args(["--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "", "--dir"])
            .arg(&folder.0)
            .args(options(address.port().to_string(), &folder))
            .env("LD_LIBRARY_PATH", program.parent().unwrap_or(Path::new("/")));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("Redis can be started");
        let mut redis = Redis { child, address, scheme, _folder: folder };
        wait_for("Redis to listen", || {
            assert!(redis.child.try_wait().expect("a child").is_none(), "Redis ended");
            std::net::TcpStream::connect(address).ok()
        });
        redis
    }

    /// How its clients are told of it.
    pub fn url(&self) -> String {
        format!("{}://:{PASSWORD}@{}/0", self.scheme, self.address)
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
