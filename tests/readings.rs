use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::client::Connection;
use crate::support::server::{Server, setup};
use crate::support::{guest, nginx, packages, root, wait_for};

/// What is sent after each row: whoever sees the row's end elsewhere does not see this.
const NEXT: &[u8] = b"POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnext";

/// What a server makes of some bytes: the bodies that it echoes, or the statuses of refusals.
type Reading = Vec<Result<String, u16>>;

struct Row {
    sent: Vec<u8>,
    /// Our reading of it, without what follows.
    ours: Result<String, u16>,
    /// Why it is refused.
    section: Option<String>,
}

/// The table: of each row, what it is about, bytes as characters of Latin-1, and the body that
/// we read; or 400, and the section that says so.
fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("tests/fixtures/readings.jsonl")).unwrap();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let sent = row[1].as_str().unwrap().chars().map(|c| u8::try_from(c).unwrap()).collect();
        let ours = match row[2].as_u64() {
            Some(status) => Err(status as u16),
            None => Ok(row[2].as_str().unwrap().to_owned()),
        };
        Row { sent, ours, section: row[3].as_str().map(str::to_owned) }
    };
    text.lines().map(row).collect()
}

fn read(address: SocketAddr, row: &Row) -> Reading {
    let mut connection = Connection::open(address);
    // Others may wait for more where we refuse; that is not what is compared.
    let time = if row.ours.is_ok() { 60 } else { 2 };
    connection.socket.set_read_timeout(Some(Duration::from_secs(time))).unwrap();
    let _ = connection.socket.write_all(&row.sent).and_then(|()| connection.socket.write_all(NEXT));
    let mut reading = Vec::new();
    while let Ok(reply) = connection.try_reply() {
        reading.push(match reply.status {
            200 => Ok(String::from_utf8(reply.body).unwrap()),
            status => Err(status),
        });
    }
    reading
}

fn echo() -> Server {
    setup(guest("echo")).options("--linger-timeout 1").start()
}

/// A server of Python, whose reading of HTTP/1 is that of h11.
struct Hypercorn {
    child: Child,
    address: SocketAddr,
}

impl Hypercorn {
    fn start() -> Hypercorn {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap();
        let mut command = Command::new("python3");
        command.args(["-m", "hypercorn", "--log-level", "critical", "--bind", &address.to_string()]);
        command.arg("echo_asgi:application").current_dir(root().join("tests/fixtures"));
        command.env("PYTHONPATH", packages::hypercorn()).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("hypercorn to listen", || {
            assert!(child.try_wait().unwrap().is_none(), "hypercorn ended");
            TcpStream::connect(address).ok()
        });
        Hypercorn { child, address }
    }
}

impl Drop for Hypercorn {
    fn drop(&mut self) {
        // It has a worker, which ends with it only if it is asked to.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn the_table_is_what_we_read() {
    let server = echo();
    let rows = rows();
    assert!(rows.len() >= 100, "{}", rows.len());
    for row in rows {
        let text = String::from_utf8_lossy(&row.sent);
        let expected = match &row.ours {
            Ok(body) => vec![Ok(body.clone()), Ok("next".to_owned())],
            Err(status) => vec![Err(*status)],
        };
        assert_eq!(read(server.address, &row), expected, "{text:?}");
        assert_eq!(row.ours.is_err(), row.section.is_some(), "{text:?}");
    }
}

/// What both take, both read alike: so neither is led astray by the other in front of it.
fn assert_agrees(name: &str, address: SocketAddr) {
    let mut taken = 0;
    for row in rows() {
        let text = String::from_utf8_lossy(&row.sent);
        let Ok(body) = &row.ours else { continue };
        let reading = read(address, &row);
        if let Some(Ok(_)) = reading.first() {
            assert_eq!(reading, [Ok(body.clone()), Ok("next".to_owned())], "{name}: {text:?}");
            taken += 1;
        }
    }
    assert!(taken > 30, "{name} takes {taken}");
}

#[test]
fn nginx_reads_what_we_read() {
    let server = echo();
    assert_agrees("nginx", nginx::before(server.address, "").address);
}

#[test]
fn hypercorn_reads_what_we_read() {
    assert_agrees("hypercorn", Hypercorn::start().address);
}

/// Also of what we refuse: each request that reaches us through it was answered to its client,
/// and is one that the client sent.
#[test]
fn nothing_is_smuggled_through_nginx() {
    let server = echo();
    let nginx = nginx::before(server.address, "");
    let mut replies = 0;
    for row in rows() {
        let reading = read(nginx.address, &row);
        assert!(reading.len() <= 2, "{:?}: {reading:?}", String::from_utf8_lossy(&row.sent));
        replies += reading.len();
    }
    let requests = server.stop().log.lines().filter(|line| line.contains(" HTTP/")).count();
    assert!(requests <= replies, "{requests} requests, {replies} replies");
}
