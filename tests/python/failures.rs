use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{ask, faults};
use crate::support::client::Connection;

/// Runs `test` while clients of other requests get all their answers.
fn beside_other_requests(address: SocketAddr, test: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut connection = Connection::open(address);
            let mut answered = 0;
            while !is_over.load(Ordering::Relaxed) || answered == 0 {
                assert_eq!(connection.get("/hello").text(), "Hello World");
                answered += 1;
            }
        });
        // The other client ends even if the test fails.
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        is_over.store(true, Ordering::Relaxed);
        other.join().expect("the other requests never notice");
        failed.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    });
}

#[test]
fn an_early_failure_is_a_500_with_its_traceback_and_others_never_notice() {
    let server = faults("--cores 4");
    let rows = [
        ("/raises", "RuntimeError: before the head"),
        ("/raises-after-start", "RuntimeError: before the first piece"),
        ("/raises-in-first-piece", "ZeroDivisionError"),
        ("/exits", "SystemExit: on purpose"),
        ("/recurses", "RecursionError"),
        ("/no-such-path", "KeyError: 'no_such_path'"),
        ("/no-start", "start_response"),
        ("/two-starts", "start_response was called twice"),
        ("/text-body", "TypeError"),
        ("/text-in-pieces", "TypeError"),
        ("/no-body", "TypeError"),
        ("/bad-status", "ValueError: not a status: 'fine'"),
    ];
    beside_other_requests(server.address, || {
        for (path, line) in rows {
            let mut connection = Connection::open(server.address);
            let reply = connection.get(path);
            assert_eq!((reply.status, reply.complete), (500, true), "{path}");
            // Nothing of the program's inside reaches the client.
            assert!(!reply.text().contains(line), "{path}: {}", reply.text());
            server.wait_for_line(line);
            assert_eq!(connection.get("/hello").status, 200, "{path}");
        }
    });
    let log = server.stop().log;
    let (_, traceback) = log.split_once("Traceback (most recent call last):\n").expect("a traceback");
    // What it shows begins in the user's file and has the text of its lines.
    let first = traceback.lines().next().unwrap();
    assert!(first.contains("faults.py\", line ") && first.ends_with(", in application"), "{first}");
    assert!(traceback.contains("raise RuntimeError(\"before the head\")"), "{traceback}");
}

#[test]
fn a_late_failure_breaks_the_transfer_and_leaves_its_traceback() {
    let server = faults("--cores 4");
    beside_other_requests(server.address, || {
        for path in ["/raises-in-body", "/raises-in-sized-body"] {
            let reply = server.get(path);
            assert_eq!((reply.status, reply.complete), (200, false), "{path}");
            assert!(b"partial".starts_with(&reply.body), "{path}");
        }
    });
    server.wait_for_figure("/requests/broken", 2);
    let log = server.stop().log;
    assert_eq!(log.matches("RuntimeError: after the first piece").count(), 2);
    // What it had printed is not lost with the response.
    assert_eq!(log.matches("printed before the failure").count(), 1);
}

#[test]
fn an_interpreter_that_ends_is_a_500_and_another_takes_its_place() {
    let server = faults("--cores 1");
    assert_eq!(server.get("/count").text(), "1");
    assert_eq!(server.get("/count").text(), "2");
    assert_eq!(server.get("/exits-at-once").status, 500);
    assert_eq!(server.get("/count").text(), "1");
    assert_eq!(server.figure("/instances_created"), 2);
}

#[test]
fn an_application_that_takes_too_long_is_a_504_and_others_never_notice() {
    let server = faults("--cores 4 --harakiri 2");
    beside_other_requests(server.address, || {
        for path in ["/spins", "/sleeps"] {
            assert_eq!(server.get(path).status, 504, "{path}");
        }
    });
    assert_eq!(server.figure("/requests/failures/deadline"), 2);
}

#[test]
fn out_of_memory_is_a_500_and_the_next_request_is_served() {
    let server = faults("--cores 4 --memory-limit 96M");
    beside_other_requests(server.address, || {
        let rows =
            [("/takes-memory/200", "MemoryError"), ("/takes-memory-bit-by-bit", "/takes-memory-bit-by-bit")];
        for (path, line) in rows {
            let mut connection = Connection::open(server.address);
            let reply = connection.get(path);
            assert_eq!((reply.status, reply.complete), (500, true), "{path}");
            server.wait_for_line(line);
            assert_eq!(ask(&server, "GET /takes-memory/4 HTTP/1.1\r\nHost: test\r\n\r\n").text(), "4194304");
        }
    });
}

#[test]
fn a_response_cannot_be_split_by_its_head() {
    let server = faults("--cores 2");
    for path in ["/split-by-value", "/split-by-name", "/split-by-line-feed", "/value-beyond-latin-1"] {
        let mut connection = Connection::open(server.address);
        let reply = connection.get(path);
        assert_eq!((reply.status, reply.complete), (500, true), "{path}");
        assert_eq!(reply.field("x-smuggled"), None, "{path}");
        assert_eq!(connection.get("/hello").text(), "Hello World", "{path}");
    }
    server.wait_for_line("Error: ");
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.get("/split-by-status").field("x-smuggled"), None);
    assert_eq!(connection.get("/hello").text(), "Hello World");
}

#[test]
fn a_body_shorter_than_announced_never_passes_as_whole() {
    let server = faults("--cores 2");
    let paths = ["/short-body", "/short-body-in-pieces", "/short-body-of-nothing"];
    for path in paths {
        let reply = server.get(path);
        assert!(reply.status == 500 || !reply.complete, "{path}: {reply:?}");
        assert_eq!(server.get("/hello").text(), "Hello World", "{path}");
    }
    assert_eq!(server.stop().log.matches("ValueError: the body").count(), paths.len());
}

#[test]
fn a_body_longer_than_announced_is_cut_and_no_more_of_it_is_asked_for() {
    let server = faults("--cores 2");
    let mut connection = Connection::open(server.address);
    for path in [
        "/long-body",
        "/long-body-in-pieces",
        "/long-body-in-odd-pieces",
        "/endless-body",
        "/long-body-of-nothing",
    ] {
        let reply = connection.get(path);
        let expected = if path == "/long-body-of-nothing" { "" } else { "Hello" };
        assert_eq!((reply.status, reply.text(), reply.complete), (200, expected, true), "{path}");
        assert_eq!(connection.get("/hello").text(), "Hello World", "{path}");
    }
    let log = server.stop().log;
    assert_eq!(log.matches("closed the endless body").count(), 1, "{log}");
    assert!(!log.contains("asked for more"), "{log}");
    assert!(!log.contains("Traceback"), "{log}");
}

#[test]
fn what_is_written_beyond_the_length_is_an_error_and_never_arrives() {
    let server = faults("--cores 2");
    let paths = ["/long-body-written"];
    for path in paths {
        let mut connection = Connection::open(server.address);
        let reply = connection.get(path);
        // What was announced may have left before the next piece came.
        let is_what_was_announced = reply.complete && reply.body == b"Hello";
        assert!(reply.status == 500 || !reply.complete || is_what_was_announced, "{path}: {reply:?}");
        // Its rest would be taken for the next response.
        let _ = connection.socket.write_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
        if let Ok(next) = connection.try_reply() {
            assert_eq!(next.text(), "Hello World", "{path}");
        }
    }
    assert_eq!(server.figure("/requests/failures/trap"), 0);
    assert_eq!(server.stop().log.matches("ValueError: the body").count(), paths.len());
}
