use crate::support::client::Connection;
use crate::support::fault_guests;
use crate::support::server::{Server, setup};

fn faults(options: &str) -> Server {
    setup(fault_guests::component("faults")).options(options).start()
}

#[test]
fn a_trap_before_the_response_is_an_error_and_others_never_notice() {
    let server = faults("--cores 2");
    let mut other = Connection::open(server.address);
    other.send("GET /sleep/300 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(server.get("/trap").status, 500);
    assert_eq!(other.reply().status, 200);
    assert_eq!(server.figure("/requests/failures/trap"), 1);
    let line = server.wait_for_line("the guest trapped");
    assert!(line.contains("GET /trap on core "), "{line}");
}

#[test]
fn a_trap_in_the_body_breaks_the_transfer() {
    let server = faults("--cores 1");
    for path in ["/trap-in-body/0", "/trap-in-sized-body/0", "/trap-in-body/300"] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let reply = connection.reply();
        assert_eq!((reply.status, reply.complete), (200, false), "{path}");
        assert_eq!(server.get("/hello").status, 200, "{path}");
    }
    server.wait_for_figure("/requests/failures/trap", 3);
}

#[test]
fn a_failure_behind_the_response_leaves_it_whole() {
    let rows = [
        ("faults", "/trap-after-response", "Hello World", "trap"),
        ("faults", "/trap-after-chunked-response", "Hello World", "trap"),
        ("faults", "/trap-after-sized-body", "partial", "trap"),
        ("faults-0.3", "/trap-after-response", "Hello World", "trap"),
        // As long as its head promised, though its end never comes.
        ("faults-0.3", "/trap-after-sized-body", "Hello World", "trap"),
        ("faults-0.3", "/trap-before-trailers", "Hello World", "trap"),
        ("faults-0.3", "/trap-before-trailers-of-nothing", "", "trap"),
        ("program", "/whole-exit", "half", "exit_status"),
        ("program-0.2", "/whole-exit", "half", "exit_status"),
    ];
    for (guest, path, text, failure) in rows {
        let server = setup(fault_guests::component(guest)).options("--cores 1").start();
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            let reply = connection.get(path);
            assert_eq!((reply.status, reply.text(), reply.complete), (200, text, true), "{guest} {path}");
        }
        server.wait_for_figure(&format!("/requests/failures/{failure}"), 2);
        assert_eq!(server.figure("/requests/broken"), 0, "{guest} {path}");
    }
}

#[test]
fn a_deadline_behind_the_body_leaves_it_whole_and_one_within_it_does_not() {
    let server = setup(fault_guests::component("faults-0.3")).options("--cores 4 --harakiri 0.5").start();
    let rows = [
        ("/spin-before-trailers", "Hello World", true),
        ("/wait-before-trailers", "Hello World", true),
        ("/wait-in-body", "partial", false),
    ];
    let mut connections = rows.map(|(path, _, _)| {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        connection
    });
    for ((path, text, complete), connection) in rows.into_iter().zip(&mut connections) {
        let reply = connection.reply();
        assert_eq!((reply.status, reply.text(), reply.complete), (200, text, complete), "{path}");
        if complete {
            assert_eq!(connection.get("/hello").text(), "Hello World", "{path}");
        }
    }
    server.wait_for_figure("/requests/failures/deadline", 3);
    assert_eq!(server.figure("/requests/broken"), 1);
}

#[test]
fn a_failure_behind_a_head_without_a_body_leaves_it_whole() {
    for guest in ["faults", "faults-0.3"] {
        let server = setup(fault_guests::component(guest)).options("--cores 1").start();
        let mut connection = Connection::open(server.address);
        let behind_the_body =
            if guest == "faults" { "/trap-after-response" } else { "/trap-before-trailers" };
        for path in ["/trap-in-body/0", "/trap-in-body/0", behind_the_body] {
            connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert_eq!(connection.head().unwrap().status, 200, "{guest} {path}");
        }
        server.wait_for_figure("/requests/failures/trap", 3);
        assert_eq!(server.figure("/requests/broken"), 0, "{guest}");
    }
}

#[test]
fn guests_for_0_3_fail_as_those_for_0_2_do() {
    let server = setup(fault_guests::component("faults-0.3")).options("--cores 1 --harakiri 0.5").start();
    for (path, status) in
        [("/trap", 500), ("/no-response", 500), ("/error-code", 500), ("/spin", 504), ("/wait", 504)]
    {
        assert_eq!(server.get(path).status, status, "{path}");
    }
    let reply = server.get("/trap-in-body/100");
    assert_eq!((reply.status, reply.complete), (200, false));
    assert_eq!(server.get("/hello").text(), "Hello World");
}

#[test]
fn tables_count_as_memory() {
    let folder = crate::support::Folder::new();
    let refused = crate::support::server::program()
        .arg("--guest")
        .arg(fault_guests::component("huge-table"))
        .args(["--memory-limit", "1M", "--logto"])
        .arg(folder.join("log"))
        .output()
        .expect("the program can be started");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--memory-limit"));
}

#[test]
fn a_body_that_the_guest_gives_up_does_not_look_complete() {
    for (guest, paths) in [
        ("faults", &["/unfinished-body", "/short-body", "/long-body"][..]),
        ("faults-0.3", &["/short-body", "/long-body"]),
    ] {
        let server = setup(fault_guests::component(guest)).options("--cores 1").start();
        for path in paths {
            let mut connection = Connection::open(server.address);
            // What follows would be taken for the rest of the body.
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").repeat(2));
            let reply = connection.reply();
            assert_eq!((reply.status, reply.complete), (200, false), "{guest} {path}");
            let most = reply.field("content-length").map_or(7, |length| length.parse().unwrap());
            assert!(reply.body.len() <= most, "{guest} {path}");
            assert_eq!(connection.until_closed(), b"", "{guest} {path}");
            assert_eq!(server.get("/hello").status, 200);
        }
        server.wait_for_figure("/requests/broken", paths.len() as u64);
        assert_eq!(server.figure("/requests/cancelled"), 0);
    }
}

#[test]
fn a_status_that_no_response_can_have_is_an_error() {
    for guest in ["faults", "faults-0.3"] {
        let server = setup(fault_guests::component(guest)).options("--cores 1").start();
        let mut connection = Connection::open(server.address);
        // Of these, `wasi:http` itself has no 0, and 0.3 nothing from 600: that is an error for the guest.
        let is_taken = |status: u16| status >= 100 && (guest == "faults" || status < 600);
        let wrong = [0, 99, 100, 101, 102, 103, 199, 600, 999, 1000];
        for status in wrong {
            let expected = if is_taken(status) && status < 1000 { 500 } else { 400 };
            assert_eq!(connection.get(&format!("/status/{status}")).status, expected, "{guest} {status}");
        }
        let failures = wrong.iter().filter(|status| is_taken(**status) && **status < 1000).count();
        server.wait_for_figure("/requests/failures/guest_error", failures as u64);
        for status in [200, 204, 304, 404, 418, 500, 599] {
            assert_eq!(connection.get(&format!("/status/{status}")).status, status, "{guest}");
        }
        let lines = server.stop().log;
        assert_eq!(lines.matches("is not the status of a response").count(), failures, "{guest}: {lines}");
    }
}

#[test]
fn no_response_is_an_error() {
    let server = faults("--cores 1");
    for path in ["/no-response", "/drop-outparam", "/drop-outparam-then-spin", "/error-code"] {
        assert_eq!(server.get(path).status, 500, "{path}");
    }
    assert_eq!(server.figure("/requests/failures/no_response"), 3);
    assert_eq!(server.figure("/requests/failures/guest_error"), 1);
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn memory_ends_at_the_limit() {
    let server = faults("--cores 2 --memory-limit 16M");
    let pages: u64 = server.get("/grow").text().parse().unwrap();
    // It began with a few of the 256 pages.
    assert!((200..256).contains(&pages), "{pages}");
    assert_eq!(server.get("/grow-or-trap").status, 500);
    assert_eq!(server.get("/hello").status, 200);
    let held = server.resident_bytes();
    assert!(held < 200 << 20, "{held} bytes");
}

#[test]
fn deep_recursion_is_a_trap() {
    let server = faults("--cores 1");
    assert_eq!(server.get("/recurse").status, 500);
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn huge_copies_and_tables_are_refused_or_end_at_the_deadline() {
    let server = faults("--cores 2 --harakiri 1");
    let copy = server.get("/copy").status;
    assert!(matches!(copy, 200 | 500 | 504), "{copy}");
    let table = server.get("/table-grow");
    assert!(matches!(table.status, 200 | 500), "{}", table.status);
    assert_eq!(server.get("/hello").status, 200);
}
