//! A real nginx, of the distribution's package, in a folder of its own: nothing of it is
//! installed or started for the system. It runs as a user who can do nothing else, if the
//! tests run as root.

use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::packages::{self, cache};
use super::{Folder, wait_for};

/// The user `nobody`, and its group.
const NOBODY: u32 = 65534;

/// A proxy in front of a server. It is stopped when it is dropped.
pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    folder: Folder,
}

/// Starts it in front of `upstream`, with further lines of configuration for the place.
pub fn before(upstream: SocketAddr, more: &str) -> Nginx {
    let folder = Folder::new();
    // Another program may take the port in between; then nginx ends, and so does the test.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let at = folder.0.display();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temporary, "{kind}_temp_path {at}/{kind};").expect("text");
    }
    let configuration = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log info;
        events {{ worker_connections 1024; }}
        http {{ {temporary} access_log {at}/access.log; client_max_body_size 1g; keepalive_requests 100000;
            upstream guests {{ server {upstream}; keepalive 16; }}
            server {{ listen {port};
                location / {{ proxy_pass http://guests; proxy_http_version 1.1; proxy_set_header Connection \"\"; {more} }} }} }}"
    );
    fs::write(folder.join("nginx.conf"), configuration).expect("the folder can be written");
    let is_root = fs::metadata(&folder.0).expect("it is there").uid() == 0;
    let mut program = program();
    if is_root && program.starts_with(cache()) {
        // Where the other user can execute it.
        let copy = folder.join("program");
        fs::copy(&program, &copy).expect("the folder can be written");
        program = copy;
    }
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(&folder.0)
        .arg("-e")
        .arg(folder.join("error.log"))
        .arg("-c")
        .arg(folder.join("nginx.conf"));
    if is_root {
        chown(&folder.0, Some(NOBODY), Some(NOBODY)).expect("it is root's");
        command.uid(NOBODY).gid(NOBODY);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("nginx can be started");
    let mut nginx = Nginx { child, address: port, folder };
    wait_for("nginx to listen", || {
        assert!(nginx.child.try_wait().expect("a child").is_none(), "nginx ended: {}", nginx.errors());
        std::net::TcpStream::connect(port).ok()
    });
    nginx
}

impl Nginx {
    /// What it has to complain about.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let installed = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
    packages::program("WASM_SERVE_TEST_NGINX", &installed, "nginx", cache().join("wasm-serve/tests"), "nginx")
}
