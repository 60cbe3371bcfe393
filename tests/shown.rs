use std::collections::HashMap;

use crate::support::client::{self, Connection};
use crate::support::server::setup;
use crate::support::{fault_guests, guest, root, wait_for};

#[test]
fn each_request_has_a_line() {
    let server = setup(guest("hello")).options("--cores 1").start();
    Connection::open(server.address).get("/path?query=1");
    let line = server.wait_for_line("/path");
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("\"GET /path?query=1 HTTP/1.1\" 200 11 "), "{line}");
    assert!(line.ends_with("core=0"), "{line}");
}

#[test]
fn request_lines_can_be_turned_off() {
    let server = setup(guest("blocking"))
        .options("--disable-logging")
        .dir(&root().join("guests/rust/numbers"))
        .start();
    server.get("/");
    server.wait_for_line("9:10");
    let log = server.stop().log;
    assert!(!log.contains("GET"), "{log}");
}

#[test]
fn deferred_calls_have_lines_if_wanted() {
    let server =
        setup(guest("deferred")).options("--log-deferred").dir(&root().join("guests/rust/numbers")).start();
    server.get("/?delay-ms=20");
    let line = server.wait_for_line("deferred id=1 ");
    let fields: HashMap<&str, &str> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
    let number = |name: &str| fields[name].parse::<u64>().unwrap();
    assert_eq!(fields["outcome"], "done");
    assert_eq!(number("due") - number("scheduled"), 20_000_000);
    assert!(number("started") >= number("due"));
    assert!(number("waited_ns") >= 20_000_000);
}

#[test]
fn the_log_can_be_moved_away_and_reopened() {
    let server = setup(guest("hello")).start();
    Connection::open(server.address).get("/first");
    server.wait_for_line("/first");
    let moved = server.log_path().with_extension("1");
    std::fs::rename(server.log_path(), &moved).unwrap();
    server.signal("USR1");
    wait_for("the log to be opened again", || server.log_path().exists().then_some(()));
    Connection::open(server.address).get("/second");
    server.wait_for_line("/second");
    assert!(!std::fs::read_to_string(&moved).unwrap().contains("/second"));
}

#[test]
fn a_log_that_cannot_be_written_does_not_stop_the_server() {
    let server = setup(guest("hello")).options("--logto /dev/full").start();
    for _ in 0..100 {
        assert_eq!(server.get("/").text(), "Hello World");
    }
    let ended = server.stop();
    assert!(ended.status.success());
    let complaints = ended.said.iter().filter(|line| line.contains("the log cannot be written")).count();
    assert_eq!(complaints, 1, "{:?}", ended.said);
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_server() {
    use std::io::{BufRead, BufReader};
    let mut child = crate::support::server::program()
        .arg("--guest")
        .arg(fault_guests::component("faults"))
        .args(["--http-socket", "127.0.0.1:0", "--harakiri", "5"])
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    // The reader is gone now: what is written from here on fails.
    let address = line.split("http://").nth(1).unwrap().trim_end().trim_end_matches('/').parse().unwrap();
    for _ in 0..3 {
        // More than may wait to be written.
        assert_eq!(client::get(address, "/log/100000").status, 200);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_flood_of_guest_output_is_whole_and_disturbs_nobody() {
    let server = setup(fault_guests::component("faults")).options("--cores 2 --harakiri 2").start();
    let address = server.address;
    let flood = std::thread::spawn(move || client::get(address, "/log/1000000000").status);
    for _ in 0..20 {
        assert_eq!(server.get("/hello").status, 200);
    }
    assert_eq!(flood.join().unwrap(), 504);
}

#[test]
fn the_figures_are_shown_in_both_forms() {
    let server = setup(guest("hello")).start();
    for _ in 0..3 {
        server.get("/");
    }
    server.wait_for_figure("/requests/answered/2xx", 3);
    assert_eq!(server.figure("/instances_created"), 3);
    assert_eq!(server.figure("/cores/busy"), 0);
    let metrics = client::get(server.stats_address, "/metrics");
    assert!(metrics.text().contains("wasm_serve_requests_total{class=\"2xx\"} 3\n"), "{}", metrics.text());
    assert!(metrics.text().ends_with("# EOF\n"));
    assert_eq!(client::get(server.stats_address, "/healthz").text(), "ok\n");
    assert_eq!(client::get(server.stats_address, "/other").status, 404);
}
