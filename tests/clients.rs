use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use crate::support::client::{self, Connection};
use crate::support::server::{Server, setup};
use crate::support::{fault_guests, guest, wait_for};

fn faults(options: &str) -> Server {
    setup(fault_guests::component("faults")).options(options).start()
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let server = setup(guest("hello")).options("--head-limit 16K --head-fields 50").start();
    let many = "x: y\r\n".repeat(60);
    let large = format!("x: {}\r\n", "y".repeat(20 << 10));
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [many, large] {
        let bad = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        // One that is too large need not have come to its end.
        for end in [bad.len(), bad.len() - 1, bad.len() - 100] {
            let is_too_large = end > 16 << 10 || end == bad.len();
            for before in [0, 2].into_iter().filter(|_| is_too_large) {
                let mut connection = Connection::open(server.address);
                let sent = [good.repeat(before), bad[..end].to_owned()].concat();
                let _ = connection.socket.write_all(sent.as_bytes());
                for _ in 0..before {
                    assert_eq!(connection.reply().status, 200);
                }
                assert_eq!(connection.reply().status, 431);
                connection.until_closed();
            }
        }
    }
    let mut connection = Connection::open(server.address);
    let target = "x".repeat(70 << 10);
    let _ = connection.socket.write_all(format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    assert!(matches!(connection.reply().status, 414 | 431));
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_target_longer_than_any_is_refused() {
    let server = setup(guest("hello")).options("--head-limit 256K").start();
    let mut connection = Connection::open(server.address);
    let target = "x".repeat(100 << 10);
    let _ = connection.socket.write_all(format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    assert_eq!(connection.reply().status, 414);
}

#[test]
fn bodies_that_are_too_large_are_refused() {
    let server = faults("--body-limit 1000");
    let mut connection = Connection::open(server.address);
    connection.send("POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(connection.reply().status, 413);
    connection.until_closed();
    assert_eq!(server.figure("/instances_created"), 0);
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.post("/read-body", &[b'x'; 1000]).text(), "1000");
    // Its length is not known before: the guest sees an error.
    let mut connection = Connection::open(server.address);
    connection.send("POST /read-body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(format!("400\r\n{}\r\n", "x".repeat(1024)));
    assert_eq!(connection.reply().text(), "error");
    connection.until_closed();
}

#[test]
fn a_body_cut_short_is_not_complete_for_the_guest() {
    let server = faults("--cores 1");
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("POST /read-body HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        connection.send("4\r\nhalf\r\n");
        server.wait_for_figure("/cores/busy", 1);
        connection.socket.shutdown(Shutdown::Write).unwrap();
        // The call is cancelled or fails; it never succeeds.
        if let Ok(reply) = connection.try_reply() {
            assert!(reply.status != 200 || reply.text() == "error", "{reply:?}");
        }
        server.wait_for_figure("/cores/busy", 0);
    }
}

#[test]
fn a_body_that_does_not_come_is_an_error_for_the_guest() {
    let server = faults("--cores 1 --body-timeout 0.3");
    let mut connection = Connection::open(server.address);
    connection.send("POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!(connection.reply().text(), "error");
    assert_eq!(server.figure("/cores/busy"), 0);
}

#[test]
fn a_client_that_leaves_frees_its_core_and_its_descriptors() {
    let server = faults("--cores 2 --harakiri 60 --max-requests 0");
    assert_eq!(server.get("/hello").status, 200);
    server.wait_for_figure("/connections/open", 0);
    let files = server.open_files();
    let before = [
        ("before the body", "POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"),
        ("in the body", "POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"),
        ("after the body", "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("while it computes", "GET /spin HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("with a body that nobody reads", "POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
        ("with another request behind", "GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\n"),
        ("in the response", "GET /endless-body HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (when, request) in before {
        let mut connection = Connection::open(server.address);
        connection.send(request);
        server.wait_for_figure("/cores/busy", 1);
        drop(connection);
        // Long before the deadline.
        server.wait_for_figure("/cores/busy", 0);
        server.wait_for_figure("/connections/open", 0);
        // One may be of the figures that were asked for in this moment.
        wait_for(&format!("descriptors to be freed {when}"), || {
            (server.open_files() <= files + 1).then_some(())
        });
    }
    // The two whose body was cut short may have been answered into the void.
    assert!(server.figure("/requests/cancelled") >= 5);
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn a_request_that_waits_for_a_core_is_dropped_with_its_client() {
    let server = faults("--cores 1");
    let mut running = Connection::open(server.address);
    running.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    let mut waiting = Connection::open(server.address);
    waiting.send("GET /count HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/queue", 1);
    drop(waiting);
    server.wait_for_figure("/cores/queue", 0);
    drop(running);
    server.wait_for_figure("/cores/busy", 0);
    assert_eq!(server.figure("/instances_created"), 1);
}

#[test]
fn a_client_that_only_stops_sending_still_gets_its_answer() {
    let server = faults("--cores 1");
    for version in ["1.1", "1.0"] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET /sleep/500 HTTP/{version}\r\nHost: a\r\n\r\n"));
        connection.socket.shutdown(Shutdown::Write).unwrap();
        let reply = connection.reply();
        assert_eq!((reply.status, reply.complete), (200, true), "HTTP/{version}");
        connection.until_closed();
    }
    let mut connection = Connection::open(server.address);
    connection.send("POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    connection.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.reply().text(), "4");
}

#[test]
fn a_half_closed_client_gets_all_and_then_the_end() {
    // The idle time is long: if the end of the connection came with it, this
    // would take as long.
    let server = setup(guest("echo")).options("--cores 2 --head-limit 1M --idle-timeout 600").start();
    for kilobytes in [0, 1, 300, 1500, 2500, 4000] {
        let body = vec![b'x'; kilobytes << 10];
        let mut connection = Connection::open(server.address);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut writer = connection.socket.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            writer.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        // The server cannot send all until this client begins to read.
        std::thread::sleep(Duration::from_millis(200));
        let reply = connection.reply();
        sender.join().unwrap();
        assert_eq!((reply.complete, reply.body.len()), (true, kilobytes << 10));
        connection.until_closed();
    }
}

#[test]
fn the_same_holds_on_a_unix_socket() {
    use std::os::unix::net::UnixStream;
    let folder = crate::support::Folder::new();
    let path = folder.join("http.sock");
    let server = faults(&format!("--http-socket unix:{}", path.display()));
    let mut half = Connection::over(UnixStream::connect(&path).unwrap());
    half.send("GET /sleep/500 HTTP/1.1\r\nHost: a\r\n\r\n");
    half.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.reply().status, 200);
    let mut gone = Connection::over(UnixStream::connect(&path).unwrap());
    gone.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    drop(gone);
    server.wait_for_figure("/cores/busy", 0);
}

#[test]
fn deferred_calls_stand_when_the_client_leaves() {
    let server = setup(fault_guests::component("deferred-faults")).start();
    let mut connection = Connection::open(server.address);
    connection.send("GET /later-then-spin/100/still-here HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/deferred/scheduled", 1);
    drop(connection);
    server.wait_for_line("still-here");
}

#[test]
fn a_slow_client_is_left_and_others_do_not_notice() {
    let server = faults("--cores 2 --write-timeout 0.5 --harakiri 60");
    let mut slow = Connection::open(server.address);
    slow.send("GET /endless-body HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    assert_eq!(server.get("/hello").status, 200);
    server.wait_for_figure("/cores/busy", 0);
    assert_eq!(server.figure("/requests/cancelled"), 1);
}

#[test]
fn more_connections_than_allowed_wait_and_are_served_then() {
    let server = setup(guest("hello")).options("--connections 2 --idle-timeout 60").start();
    let first = Connection::open(server.address);
    let _second = Connection::open(server.address);
    server.wait_for_figure("/connections/open", 2);
    let address = server.address;
    let third = std::thread::spawn(move || client::get(address, "/").status);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!third.is_finished());
    drop(first);
    assert_eq!(third.join().unwrap(), 200);
}
