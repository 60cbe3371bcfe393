use std::path::PathBuf;

use crate::support::client::{self, Connection};
use crate::support::server::{Server, setup, setup_python};
use crate::support::{fault_guests, guest, root, wait_for};

/// Lines as the server writes them, and what ends a line or acts on a terminal.
const FORGED: &str = "\n127.0.0.1 - - [2026-01-01T00:00:00Z] \"GET /forged HTTP/1.1\" 200 11 0.100ms core=0
2026-01-01T00:00:00.000Z forged stop
deferred id=7 forged outcome=done
    forged
forged\rforged \u{1b}[2J\u{85}\u{2028}forged\u{202e}forged\0\n";

fn python() -> PathBuf {
    root().join("tests/fixtures/faults.py")
}

/// Waits until `count` lines have `forged` in them, and checks whose they are.
fn assert_marked(server: &Server, count: usize) {
    let log = wait_for(&format!("{count} lines"), || {
        let log = server.log();
        (log.lines().filter(|line| line.contains("forged")).count() >= count).then_some(log)
    });
    for line in log.lines() {
        assert!(!line.contains("forged") || line.starts_with("guest: "), "{line:?} in {log}");
        let acts = |c: char| c.is_control() || ['\u{2028}', '\u{202e}'].contains(&c);
        assert!(!line.contains(acts), "{line:?}");
    }
    let own = log.lines().filter(|line| !line.starts_with("guest: "));
    assert!(own.clone().count() > 0 && own.clone().all(|line| line.contains("HTTP/1.1")), "{log}");
}

#[test]
fn a_guest_cannot_write_a_line_of_the_server() {
    for name in ["faults", "faults-0.3"] {
        let server = setup(fault_guests::component(name)).start();
        assert_eq!(server.get("/forge").text(), "logged", "{name}");
        server.wait_for_line("GET /forge ");
        assert_marked(&server, 5);
    }
}

#[test]
fn a_program_cannot_write_a_line_of_the_server() {
    for name in ["program", "program-0.2"] {
        let server = setup(fault_guests::component(name)).start();
        let reply = Connection::open(server.address).post("/print", FORGED.as_bytes());
        assert_eq!(reply.status, 200, "{name}");
        server.wait_for_line("POST /print ");
        assert_marked(&server, 5);
    }
}

#[test]
fn a_deferred_call_cannot_write_a_line_of_the_server() {
    let server = setup(fault_guests::component("program")).start();
    let reply = Connection::open(server.address).post("/later", FORGED.as_bytes());
    assert!(reply.text().parse::<u64>().is_ok());
    server.wait_for_figure("/deferred/done", 1);
    assert_marked(&server, 5);
}

#[test]
fn a_python_application_cannot_write_a_line_of_the_server() {
    let server = setup_python(python()).start();
    let reply = Connection::open(server.address).post("/prints", FORGED.as_bytes());
    assert_eq!(reply.text(), "logged");
    server.wait_for_line("POST /prints ");
    assert_marked(&server, 10);
}

#[test]
fn each_piece_of_a_long_line_is_marked() {
    let server = setup(fault_guests::component("faults")).start();
    // Twice 64 KiB, and a bit more.
    assert_eq!(server.get("/log-long/33").status, 200);
    let lines = wait_for("three pieces", || {
        let log = server.log();
        let lines: Vec<String> = log.lines().filter(|l| l.contains("xxx")).map(str::to_owned).collect();
        (lines.len() >= 3).then_some(lines)
    });
    let lengths: Vec<usize> =
        lines.iter().map(|line| line.strip_prefix("guest: ").expect("a mark").len()).collect();
    assert_eq!(lengths, [64 << 10, 64 << 10, 4 << 10]);
}

#[test]
fn bytes_stay_as_they_are_if_wanted() {
    let server = setup(fault_guests::component("faults")).options("--log-verbatim").start();
    assert_eq!(server.get("/log-control").status, 200);
    server.wait_for_line("\u{1b}[31mred\u{1b}[0m \u{7}\u{8}\0\u{7f} \r\t \u{9b}2J end");
}

#[test]
fn a_client_cannot_forge_parts_of_its_line() {
    let server = setup(guest("hello")).options("--trusted-proxy 127.0.0.1").start();
    let targets = ["/a\"forged\\", "/b\u{2028}\u{202e}forged\u{a0}200", "/c{forged}"];
    for target in targets {
        let mut connection = Connection::open(server.address);
        connection
            .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9 - - forged\r\n\r\n"));
        connection.reply();
    }
    let line = |text: &str| server.wait_for_line(text);
    assert!(line("GET /a").contains("\"GET /a\\x22forged\\x5c HTTP/1.1\" 200 11 "), "{}", line("/a"));
    let b = "\"GET /b\\xe2\\x80\\xa8\\xe2\\x80\\xaeforged\\xc2\\xa0200 HTTP/1.1\" 400 ";
    assert!(line("GET /b").contains(b), "{}", line("/b"));
    assert!(line("GET /c").contains("\"GET /c{forged} HTTP/1.1\" 200 11 "), "{}", line("/c"));
    for line in server.stop().log.lines().filter(|line| line.contains("forged")) {
        assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    }
}

/// A guest that prints for ever, by a request that is given a body.
struct Flood {
    server: Server,
    client: std::thread::JoinHandle<u16>,
}

const LIMITS: &str = "--harakiri 3 --cores 2 --log-rate 100K --log-burst 1M";

impl Flood {
    fn start(server: Server, path: &'static str) -> Flood {
        let address = server.address;
        let client = std::thread::spawn(move || {
            let body = "flood".repeat(500) + "\n";
            Connection::open(address).post(path, body.as_bytes()).status
        });
        wait_for("lines to be dropped", || (server.figure("/guest_output_dropped/lines") > 0).then_some(()));
        Flood { server, client }
    }

    /// It is stopped by nothing but its deadline, and the log is no larger than it may be.
    fn end(self) -> Server {
        assert_eq!(self.client.join().unwrap(), 504);
        let server = self.server;
        let line = server.wait_for_line("more than --log-rate and --log-burst allow");
        let count =
            line.split("dropped ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0), "{line}");
        // Half of the burst, and the rate for as long as the slowest machine takes.
        let bytes = std::fs::metadata(server.log_path()).unwrap().len();
        assert!(bytes > 400 << 10 && bytes < 10 << 20, "{bytes}");
        assert!(server.figure("/guest_output_dropped/bytes") >= count.unwrap_or(0));
        let metrics = client::get(server.stats_address, "/metrics");
        assert!(metrics.text().contains("wasm_serve_guest_lines_dropped "), "{}", metrics.text());
        server
    }
}

#[test]
fn a_flood_is_cut_and_another_guest_is_heard() {
    let flood = Flood::start(setup(fault_guests::component("faults")).options(LIMITS).start(), "/log");
    assert_eq!(flood.server.get("/log-unfinished").status, 200);
    flood.server.wait_for_line("guest: unfinished");
    flood.end();
}

#[test]
fn floods_by_every_gateway_are_cut() {
    for name in ["faults-0.3", "program", "program-0.2"] {
        let server = setup(fault_guests::component(name)).options(LIMITS).start();
        Flood::start(server, "/flood").end();
    }
}

#[test]
fn a_flood_of_a_python_application_is_cut() {
    let server = setup_python(python()).options(LIMITS).start();
    let server = Flood::start(server, "/floods").end();
    assert_eq!(server.get("/hello").text(), "Hello World");
}
