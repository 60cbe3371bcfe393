//! A server that runs: how it is started on a port of the system's choice, asked,
//! and stopped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::accounting::Tree;
use crate::options::Peer;
use crate::support::Folder;
use crate::support::client::{Connection, Reply};

/// A server that compiles its guest first takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A server to compare: a program, or several, one behind the other.
pub struct Server {
    pub name: String,
    /// `None` for our own.
    pub peer: Option<Peer>,
    /// Connections that load it.
    pub connections: usize,
    pub commands: Commands,
}

/// Makes the command lines of a server, for the ground that it is given.
pub type Commands = Box<dyn Fn(&Ground) -> Result<Vec<Command>>>;

/// What a server is given: a port, and an empty folder of its own.
pub struct Ground {
    pub port: u16,
    folder: Folder,
}

impl Ground {
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }
}

/// A request, and what the answer to it must be.
#[derive(Clone, Default)]
pub struct Ask {
    pub path: String,
    /// Posted, unless it is empty.
    pub body: Vec<u8>,
    /// Lines of its head beside those that every request has, each with its end.
    pub fields: String,
    /// `None` if any body will do.
    pub answer: Option<Vec<u8>>,
}

impl Ask {
    pub fn get(path: &str, answer: &str) -> Ask {
        Ask { path: path.to_owned(), body: Vec::new(), fields: String::new(), answer: Some(answer.into()) }
    }

    /// Posts so many bytes and wants them back. They are those that `wrk.lua` posts.
    pub fn echo(bytes: usize) -> Ask {
        let body = vec![b'x'; bytes];
        Ask { path: "/".into(), answer: Some(body.clone()), body, ..Ask::default() }
    }
}

/// A running server. It is killed when it is dropped.
pub struct Running {
    pub address: SocketAddr,
    children: Vec<Child>,
    ground: Ground,
}

impl Server {
    /// Starts it, and waits for the first right answer.
    pub fn start(&self, ask: &Ask) -> Result<Running> {
        let running = self.spawn()?;
        running.wait(ask, Duration::from_millis(5))?;
        Ok(running)
    }

    /// Starts it, and does not wait for anything.
    pub fn spawn(&self) -> Result<Running> {
        let ground = Ground { port: free_port()?, folder: Folder::new() };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ground.port));
        let commands = (self.commands)(&ground)?;
        let mut running = Running { address, children: Vec::new(), ground };
        for mut command in commands {
            let log = File::options().create(true).append(true).open(running.log_path())?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = command.spawn().with_context(|| format!("{}: {command:?}", self.name))?;
            running.children.push(child);
        }
        Ok(running)
    }
}

impl Running {
    /// Asks again and again until the answer is right. A wrong one is an error at
    /// once, except that a proxy may say that the server behind it is not there yet.
    pub fn wait(&self, ask: &Ask, pause: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let refused = match self.ask(ask) {
                Ok(reply) if reply.status != 502 => return self.check(ask, &reply),
                Ok(reply) => anyhow::anyhow!("its status is {}", reply.status),
                Err(error) => error,
            };
            if start.elapsed() > START_TIMEOUT || !self.is_alive() {
                return Err(refused.context(format!("it does not serve; it said:\n{}", self.last_lines())));
            }
            std::thread::sleep(pause);
        }
    }

    /// Asks once on a connection of its own, and checks the answer.
    pub fn ask_and_check(&self, ask: &Ask) -> Result<()> {
        self.check(ask, &self.ask(ask)?)
    }

    fn ask(&self, ask: &Ask) -> Result<Reply> {
        let mut connection = Connection::over(self.connect()?);
        let mut socket = connection.socket.try_clone()?;
        // A large body may come back before all of it is sent.
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || {
                socket.write_all(head(ask).as_bytes())?;
                socket.write_all(&ask.body)
            });
            let reply = connection.try_reply()?;
            sent.join().expect("sending does not panic")?;
            Ok(reply)
        })
    }

    fn check(&self, ask: &Ask, reply: &Reply) -> Result<()> {
        ensure!(
            reply.status == 200 && reply.complete,
            "the answer to {} is {} ({:?}); it said:\n{}",
            ask.path,
            reply.status,
            String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]),
            self.last_lines()
        );
        let Some(answer) = &ask.answer else { return Ok(()) };
        ensure!(reply.body == *answer, "the answer to {} has another body than expected", ask.path);
        Ok(())
    }

    /// The head of an answer as it comes over the socket.
    pub fn answer_head(&self, ask: &Ask) -> Result<String> {
        let mut socket = self.connect()?;
        socket.write_all(head(ask).as_bytes())?;
        // Enough for the answer to begin.
        socket.write_all(&ask.body[..ask.body.len().min(100_000)])?;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            bytes.extend(byte);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn connect(&self) -> Result<TcpStream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// Its processes. The first is the one that is in front.
    pub fn tree(&self) -> Tree {
        Tree::new(self.children.iter().map(Child::id).collect())
    }

    /// Waits until it has said so many lines that begin with `text`, and gives them.
    pub fn wait_for_lines(&self, text: &str, count: usize) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let output = fs::read(self.log_path())?;
            let output = String::from_utf8_lossy(&output);
            let lines: Vec<String> =
                output.lines().filter(|line| line.starts_with(text)).map(str::to_owned).collect();
            if lines.len() >= count {
                return Ok(lines);
            }
            ensure!(
                start.elapsed() < START_TIMEOUT,
                "{} lines begin with {text:?}, not {count}; it said:\n{}",
                lines.len(),
                self.last_lines()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log_path(&self) -> PathBuf {
        self.ground.folder().join("output")
    }

    fn is_alive(&self) -> bool {
        self.children.iter().all(|child| Path::new(&format!("/proc/{}/exe", child.id())).read_link().is_ok())
    }

    fn last_lines(&self) -> String {
        let output = fs::read(self.log_path()).unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.tree().kill() {
            eprintln!("peers: a server may still run: {error:#}");
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// The head of a request.
pub fn head(ask: &Ask) -> String {
    let Ask { path, fields, body, .. } = ask;
    if body.is_empty() {
        return format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    }
    let bytes = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n{fields}\r\n")
}

/// A port that is free now. Not every server can ask for one by itself.
pub fn free_port() -> Result<u16> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()) {
        Ok(address) => Ok(address.port()),
        Err(error) => bail!("the system gives no port: {error}"),
    }
}
