use crate::support::client::Connection;
use crate::support::server::{Server, setup};
use crate::support::fault_guests;

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
    for path in ["/trap-in-body/0", "/trap-in-sized-body", "/trap-in-body/300"] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        // The head may or may not have left before the trap.
        if let Ok(reply) = connection.try_reply() {
            assert_eq!((reply.status, reply.complete), (200, false), "{path}");
        }
        assert_eq!(server.get("/hello").status, 200, "{path}");
    }
    server.wait_for_figure("/requests/failures/trap", 3);
}

#[test]
fn a_body_that_the_guest_gives_up_does_not_look_complete() {
    let server = faults("--cores 1");
    let reply = Connection::open(server.address).get("/unfinished-body");
    assert!(!reply.complete, "{reply:?}");
    assert_eq!(server.get("/hello").status, 200);
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
    assert_eq!(pages, (16 << 20) >> 16);
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

#[test]
fn control_characters_of_a_guest_stay_as_they_are_in_a_file() {
    let server = faults("--cores 1");
    assert_eq!(server.get("/log-control").status, 200);
    server.wait_for_line("\u{1b}[");
}
