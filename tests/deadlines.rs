use std::time::{Duration, Instant};

use crate::support::client::{self, Connection};
use crate::support::server::{Server, setup};
use crate::support::{fault_guests, guest};

fn faults(options: &str) -> Server {
    setup(fault_guests::component("faults")).options(options).start()
}

#[test]
fn a_guest_that_computes_for_ever_is_stopped() {
    let server = faults("--cores 1 --harakiri 0.5");
    assert_eq!(server.get("/spin").status, 504);
    assert_eq!(server.get("/hello").status, 200);
    assert_eq!(server.figure("/requests/failures/deadline"), 1);
}

#[test]
fn a_guest_that_waits_for_ever_is_stopped() {
    let server = faults("--cores 1 --harakiri 0.5");
    assert_eq!(server.get("/wait").status, 504);
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn computing_guests_leave_time_for_others() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let server = faults(&format!("--cores {} --harakiri 20", 2 * cpus + 2));
    let spinning: Vec<Connection> = (0..2 * cpus)
        .map(|_| {
            let mut connection = Connection::open(server.address);
            connection.send("GET /spin HTTP/1.1\r\nHost: test\r\n\r\n");
            connection
        })
        .collect();
    server.wait_for_figure("/cores/busy", 2 * cpus as u64);
    // Each is answered while all CPUs are taken, and timers fire: the guest's own
    // sleep ends.
    for path in ["/hello", "/sleep/10", "/hello"] {
        assert_eq!(server.get(path).status, 200);
    }
    assert_eq!(server.figure("/cores/busy"), 2 * cpus as u64);
    drop(spinning);
    server.wait_for_figure("/cores/busy", 0);
}

/// 30 guests at these paths, which never end by themselves, on the thread of a client's.
fn leave_time_for_others(guest: &str, paths: &[&str], other: (&str, u16)) {
    let options = "--cores 40 --threads 1 --harakiri 2 --cores-per-client 0 --memory-total 8G";
    let server = setup(fault_guests::component(guest)).options(options).start();
    let address = server.address;
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..30)
            .map(|number| scope.spawn(move || client::get(address, paths[number % paths.len()]).status))
            .collect();
        while working.iter().any(|working| !working.is_finished()) {
            let start = Instant::now();
            assert_eq!(server.get(other.0).status, other.1);
            // With what is in the way of a test on a busy machine.
            assert!(start.elapsed() < Duration::from_secs(30));
        }
        assert!(working.into_iter().all(|working| working.join().unwrap() == 504));
    });
}

#[test]
fn guests_that_copy_and_fill_much_memory_leave_time_for_others() {
    leave_time_for_others("faults", &["/copy", "/fill"], ("/hello", 200));
}

#[test]
fn guests_that_make_fill_and_copy_large_arrays_leave_time_for_others() {
    let bytes = ["/fill", "/copy", "/new"];
    let references = ["/fill-references", "/copy-references", "/new-references"];
    for paths in [bytes, references] {
        leave_time_for_others("arrays", &paths, ("/none", 404));
    }
}

#[test]
fn service_returns_by_itself_when_every_core_was_stuck() {
    let server = faults("--cores 2 --harakiri 1 --queue-timeout 0.3");
    let address = server.address;
    let stuck: Vec<_> =
        (0..2).map(|_| std::thread::spawn(move || client::get(address, "/spin").status)).collect();
    server.wait_for_figure("/cores/busy", 2);
    assert_eq!(server.get("/hello").status, 503);
    assert!(stuck.into_iter().all(|stuck| stuck.join().unwrap() == 504));
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn work_after_the_response_has_its_own_budget() {
    for path in ["/spin-after-response", "/spin-after-chunked-response", "/wait-after-response"] {
        let server = faults("--cores 1 --harakiri 20 --tail-timeout 0.5");
        let reply = server.get(path);
        assert_eq!((reply.status, reply.complete), (200, true), "{path}");
        // The tail holds the core until its budget is used up.
        assert_eq!(server.get("/hello").status, 200);
        assert_eq!(server.figure("/tails_stopped"), 1, "{path}");
        assert_eq!(server.figure("/requests/answered/5xx"), 0);
    }
}

#[test]
fn a_tail_goes_on_when_its_client_has_left() {
    let server = faults("--cores 1 --tail-timeout 20");
    let reply = server.get("/wait-after-response");
    assert!(reply.complete);
    server.wait_for_figure("/cores/busy", 1);
    server.wait_for_figure("/connections/open", 0);
    assert_eq!(server.figure("/cores/busy"), 1);
    assert_eq!(server.figure("/requests/cancelled"), 0);
}

#[test]
fn a_body_without_end_is_stopped_and_looks_broken() {
    let server = faults("--cores 1 --harakiri 1");
    let reply = server.get("/endless-body");
    assert_eq!((reply.status, reply.complete), (200, false));
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn a_client_that_takes_nothing_holds_a_core_only_to_the_deadline() {
    let server = faults("--cores 1 --harakiri 1 --queue-timeout 20");
    let mut lazy = Connection::open(server.address);
    lazy.send("GET /endless-body HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    assert_eq!(server.get("/hello").status, 200);
    let held = server.resident_bytes();
    assert!(held < 400 << 20, "{held} bytes");
}

#[test]
fn a_guest_that_loops_while_it_starts_is_stopped() {
    let server = setup(fault_guests::component("spin-in-start")).options("--cores 1 --harakiri 0.5").start();
    assert_eq!(server.get("/").status, 504);
    assert_eq!(server.figure("/requests/failures/deadline"), 1);
    assert_eq!(server.figure("/cores/busy"), 0);
}

#[test]
fn deadlines_are_kept_within_a_quarter_of_a_second() {
    // A busy machine may be late with anything: one of many must be in time.
    let server = faults("--cores 1 --harakiri 1");
    let in_time = (0..20).any(|_| {
        let start = Instant::now();
        let status = server.get("/spin").status;
        assert_eq!(status, 504);
        assert!(start.elapsed() >= Duration::from_secs(1));
        start.elapsed() <= Duration::from_millis(1250)
    });
    assert!(in_time);
}

#[test]
fn a_guest_for_0_3_is_stopped_too() {
    // It waits for a body that never comes.
    let server = setup(guest("echo-0.3")).options("--cores 1 --harakiri 0.5 --body-timeout 60").start();
    let mut connection = Connection::open(server.address);
    connection.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf");
    if let Ok(reply) = connection.try_reply() {
        assert!(reply.status == 504 || !reply.complete);
    }
    server.wait_for_figure("/cores/busy", 0);
}
