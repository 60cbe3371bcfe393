//! The command line of each server. All have two threads or processes, keep
//! connections alive, and write no line for a request.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bench::Bench;
use crate::options::{Bare, Peer};
use crate::peers::{bounded, itself, wasm_serve};
use crate::running::{Ground, Server};

/// Connections of a closed loop: enough for two CPUs to be always busy.
const CONNECTIONS: usize = 64;
/// More than any measurement asks for.
const ENDLESS: &str = "1000000000";

fn server(
    name: impl Into<String>,
    peer: Option<Peer>,
    commands: impl Fn(&Ground) -> Result<Vec<Command>> + 'static,
) -> Server {
    Server { name: name.into(), peer, connections: CONNECTIONS, commands: Box::new(commands) }
}

pub fn bare(kind: Bare) -> Server {
    let (name, value) = match kind {
        Bare::Shared => ("bare hyper", "shared"),
        Bare::PerThread => ("bare hyper, a runtime a thread", "per-thread"),
    };
    server(name, None, move |ground| {
        let mut command = bounded(itself()?);
        command.args(["--bare", value, "--port", &ground.port.to_string()]);
        Ok(vec![command])
    })
}

/// Our own, with options as on a command line.
pub fn wasm_serve_tcp(bench: &Bench, name: &str, guest: PathBuf, options: &str) -> Server {
    let options = format!("{options} {}", bench.options.wasm_serve);
    server(name, None, move |ground| {
        Ok(vec![wasm_serve_on(&format!("127.0.0.1:{}", ground.port), &guest, &options)])
    })
}

/// Our own with a Python file, in the folder that the application then sees.
pub fn wasm_serve_python(bench: &Bench, name: &str, file: &Path, folder: PathBuf, options: &str) -> Server {
    let options = format!("{options} {}", bench.options.wasm_serve);
    let file = file.to_owned();
    server(name, None, move |ground| {
        let mut command = bounded(wasm_serve());
        command.current_dir(&folder).arg("--cache").arg(cache());
        command.args(["--http-socket", &format!("127.0.0.1:{}", ground.port), "--wsgi-file"]).arg(&file);
        command.args(options.split_whitespace());
        Ok(vec![command])
    })
}

/// gunicorn with two processes, and with options as on a command line.
pub fn gunicorn(bench: &Bench, name: &str, file: &Path, folder: PathBuf, options: &str) -> Server {
    let (packages, file) = (bench.peers.python_packages("gunicorn"), file.to_owned());
    let options = options.to_owned();
    server(name, Some(Peer::Gunicorn), move |ground| {
        let mut command = python(&packages, &file, &folder)?;
        command.args(["-m", "gunicorn", "--workers", "2", "--bind"]);
        command
            .arg(format!("127.0.0.1:{}", ground.port))
            .args(options.split_whitespace())
            .arg(module(&file)?);
        Ok(vec![command])
    })
}

/// granian with two processes, and with options as on a command line.
pub fn granian(bench: &Bench, name: &str, file: &Path, folder: PathBuf, options: &str) -> Server {
    let (packages, file) = (bench.peers.python_packages("granian"), file.to_owned());
    let options = options.to_owned();
    server(name, Some(Peer::Granian), move |ground| {
        let mut command = python(&packages, &file, &folder)?;
        command.args(["-m", "granian", "--interface", "wsgi", "--workers", "2", "--port"]);
        command.arg(ground.port.to_string()).args(options.split_whitespace()).arg(module(&file)?);
        Ok(vec![command])
    })
}

/// The host's Python with a package, and a file's folder to import from.
fn python(packages: &Path, file: &Path, folder: &Path) -> Result<Command> {
    let mut path = packages.as_os_str().to_owned();
    path.push(":");
    path.push(file.parent().context("the file has a folder")?);
    let mut command = bounded("python3");
    command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(folder);
    // As in uWSGI, so that each line can be counted when it was printed.
    command.env("PYTHONUNBUFFERED", "1");
    Ok(command)
}

/// A file's application, as Python servers want it named.
fn module(file: &Path) -> Result<String> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).context("the file's name is not text")?;
    Ok(format!("{stem}:application"))
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")
}

/// Its first run compiles the guest into a cache that the others find.
pub fn wasm_serve_on(socket: &str, guest: &Path, options: &str) -> Command {
    let mut command = bounded(wasm_serve());
    command.arg("--cache").arg(cache());
    command.args(["--http-socket", socket]).arg("--guest").arg(guest);
    command.args(options.split_whitespace());
    command
}

/// `wasmtime serve`, with options as on a command line. It uses its pool without
/// being told, and as many threads as there are CPUs.
pub fn wasmtime(bench: &Bench, name: &str, guest: PathBuf, options: &str) -> Server {
    let (program, options) = (bench.peers.program("wasmtime"), options.to_owned());
    server(name, Some(Peer::Wasmtime), move |ground| {
        let mut command = bounded(&program);
        // Rust's standard library imports the interfaces of `wasi:cli`.
        command.args(["serve", "-Scli", "--addr", &format!("127.0.0.1:{}", ground.port)]);
        command.args(options.split_whitespace()).arg(&guest);
        Ok(vec![command])
    })
}

/// The option that lets an instance of `wasmtime serve` serve for ever.
pub fn endless_reuse() -> String {
    format!("--max-instance-reuse-count {ENDLESS} --idle-instance-timeout 3600s")
}

pub fn go(bench: &Bench) -> Server {
    let program = bench.peers.program("go-hello");
    server("Go net/http", Some(Peer::Go), move |ground| {
        let mut command = bounded(&program);
        command.arg(format!("127.0.0.1:{}", ground.port)).env("GOMAXPROCS", "2");
        Ok(vec![command])
    })
}

pub fn nginx_file(bench: &Bench) -> Server {
    let (program, libraries) = (bench.peers.program("nginx"), bench.peers.libraries());
    server("nginx, a static file", Some(Peer::Nginx), move |ground| {
        fs::write(ground.folder().join("index.html"), "Hello World")?;
        // Nothing is behind it; the port is one that nobody serves.
        Ok(vec![nginx(&program, &libraries, ground, "127.0.0.1:9", "index index.html;")?])
    })
}

/// nginx between a client and an upstream, with no buffers of its own between them.
pub fn nginx_to(bench: &Bench, name: &str, upstream: SocketAddr) -> Server {
    let (program, libraries) = (bench.peers.program("nginx"), bench.peers.libraries());
    server(name, Some(Peer::Nginx), move |ground| {
        let content = "proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
            client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;";
        Ok(vec![nginx(&program, &libraries, ground, &upstream.to_string(), content)?])
    })
}

/// How nginx reaches the server behind it.
#[derive(Clone, Copy)]
pub enum Behind {
    Tcp,
    Unix,
}

/// nginx in front of our own.
pub fn nginx_proxy(bench: &Bench, behind: Behind, guest: PathBuf, options: &str) -> Server {
    let (program, libraries) = (bench.peers.program("nginx"), bench.peers.libraries());
    let options = format!("{options} {}", bench.options.wasm_serve);
    let name = match behind {
        Behind::Tcp => "nginx, wasm-serve 0.2 behind it by TCP",
        Behind::Unix => "nginx, wasm-serve 0.2 behind it by Unix socket",
    };
    server(name, Some(Peer::Nginx), move |ground| {
        let (socket, upstream) = match behind {
            Behind::Tcp => {
                let address = format!("127.0.0.1:{}", crate::running::free_port()?);
                (address.clone(), address)
            }
            Behind::Unix => {
                let socket = format!("unix:{}", ground.folder().join("socket").display());
                (socket.clone(), socket)
            }
        };
        let content = "proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
        let front = nginx(&program, &libraries, ground, &upstream, content)?;
        Ok(vec![wasm_serve_on(&socket, &guest, &options), front])
    })
}

fn nginx(program: &Path, libraries: &Path, ground: &Ground, behind: &str, content: &str) -> Result<Command> {
    let folder = ground.folder().to_str().context("the temporary folder's name is not text")?;
    let configuration = include_str!("nginx.conf")
        .replace("CONTENT", content)
        .replace("BEHIND", behind)
        .replace("PORT", &ground.port.to_string())
        .replace("FOLDER", folder);
    let file = ground.folder().join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = bounded(program);
    command.env("LD_LIBRARY_PATH", libraries).args(["-e", "stderr", "-p", folder, "-c"]).arg(file);
    Ok(command)
}

/// uWSGI with a WSGI file, in a folder, with options as on a command line
/// in which `ADDRESS` is where it shall listen.
pub fn uwsgi(bench: &Bench, name: &str, file: &Path, folder: Option<PathBuf>, options: &str) -> Server {
    let (program, libraries) = (bench.peers.program("uwsgi"), bench.peers.libraries());
    let (debian, options) = (bench.peers.debian(), options.to_owned());
    let file = file.to_owned();
    server(name, Some(Peer::Uwsgi), move |ground| {
        ensure!(file.exists(), "there is no {}", file.display());
        let options = options.replace("ADDRESS", &format!("127.0.0.1:{}", ground.port));
        let mut command = bounded(&program);
        command.env("LD_LIBRARY_PATH", &libraries).env("PYTHONHOME", debian.join("usr"));
        command.env("PYTHONPATH", debian.join("usr/lib/python3/dist-packages"));
        // Its sources lie in the checkout, where it would leave compiled files.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.current_dir(folder.as_deref().unwrap_or(ground.folder()));
        command.arg("--plugins-dir").arg(debian.join("usr/lib/uwsgi/plugins"));
        command.args(options.split_whitespace()).arg("--wsgi-file").arg(&file);
        Ok(vec![command])
    })
}

/// Those of a scenario whose peers were not left out.
pub fn present(bench: &Bench, servers: Vec<Server>) -> Vec<Server> {
    servers.into_iter().filter(|server| server.peer.is_none_or(|peer| bench.peers.has(peer))).collect()
}
