use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;

use crate::support::client::Connection;
use crate::support::server::{Server, Setup, setup, setup_python};
use crate::support::{fault_guests, guest, root};

/// Guests that answer without a look at the body, one for each way to serve.
fn inattentive() -> Vec<(Setup, &'static str, u16)> {
    vec![
        (setup(guest("hello")), "/", 200),
        (setup(guest("hello-0.3")), "/", 200),
        (setup(fault_guests::component("program")), "/teapot", 418),
        (setup(fault_guests::component("program-0.2")), "/teapot", 418),
        (setup_python(root().join("tests/fixtures/faults.py")), "/pieces/1", 200),
    ]
}

/// Sends all of an upload, whatever comes back, and then reads.
fn upload(server: &Server, path: &str, bytes: usize, framing: &str) -> std::io::Result<(u16, bool)> {
    let mut connection = Connection::open(server.address);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    connection.socket.write_all(head.as_bytes())?;
    let piece = vec![b'x'; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len());
        if framing.starts_with("Transfer") {
            connection.socket.write_all(format!("{now:x}\r\n").as_bytes())?;
        }
        connection.socket.write_all(&piece[..now])?;
        if framing.starts_with("Transfer") {
            connection.socket.write_all(b"\r\n")?;
        }
        left -= now;
    }
    if framing.starts_with("Transfer") {
        connection.socket.write_all(b"0\r\n\r\n")?;
    }
    let reply = connection.try_reply()?;
    Ok((reply.status, reply.complete))
}

const UPLOAD_BYTES: [usize; 4] = [8 << 10, 70 << 10, 1 << 20, 20 << 20];

#[test]
fn an_answer_reaches_a_client_that_first_sends_all_of_what_nobody_reads() {
    for (setup, path, status) in inattentive() {
        let server = setup.start();
        for bytes in UPLOAD_BYTES {
            for framing in [&format!("Content-Length: {bytes}"), "Transfer-Encoding: chunked"] {
                let answered = upload(&server, path, bytes, framing).expect("an answer");
                assert_eq!(answered, (status, true), "{path}, {bytes} bytes, {framing}");
            }
        }
    }
}

#[test]
fn a_client_is_told_when_its_connection_ends_with_the_answer() {
    for (setup, path, status) in inattentive() {
        let server = setup.start();
        for (rest, closes) in [
            ("Content-Length: 999999\r\n\r\nbegun", true),
            ("Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", true),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n", true),
            // All of it is there.
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n5\r\nended\r\n0\r\n\r\n", false),
            ("Content-Length: 5\r\n\r\nwhole", false),
            ("\r\n", false),
        ] {
            if path == "/pieces/1" && rest.ends_with("begun\r\n") {
                // The gateway of Python waits for the length of such a body.
                continue;
            }
            let mut connection = Connection::open(server.address);
            connection.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{rest}"));
            let reply = connection.reply();
            assert_eq!(reply.status, status, "{path} {rest:?}");
            assert_eq!(reply.field("connection"), closes.then_some("close"), "{path} {rest:?}");
            if closes {
                assert_eq!(connection.socket.read(&mut [0]).unwrap(), 0);
            } else {
                assert_eq!(connection.post(path, b"again").status, status);
            }
        }
    }
}

#[test]
fn a_little_that_is_still_to_come_does_not_end_the_connection() {
    for (setup, path, status) in inattentive() {
        let server = setup.start();
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            connection
                .send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegun"));
            let reply = connection.reply();
            assert_eq!((reply.status, reply.field("connection")), (status, None), "{path}");
            connection.send("x".repeat(100_000 - 5));
        }
        assert_eq!(connection.get(path).status, status, "{path}");
        assert_eq!(server.figure("/connections/accepted"), 1, "{path}");
    }
}

/// What only goes on with a body is no head, which would have to come in sooner.
#[test]
fn a_little_that_comes_slowly_does_not_end_the_connection() {
    for (setup, path, status) in inattentive() {
        let server = setup.options("--head-timeout 0.5").start();
        let mut connection = Connection::open(server.address);
        connection.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"));
        assert_eq!(connection.reply().status, status, "{path}");
        for _ in 0..5 {
            connection.send("x".repeat(20_000));
            std::thread::sleep(Duration::from_millis(300));
        }
        // Neither is the time after it.
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(connection.get(path).status, status, "{path}");
    }
}

#[test]
fn a_guest_that_answers_first_and_reads_later_keeps_its_connection() {
    for guest in [guest("echo"), guest("echo-0.3")] {
        let server = setup(guest).start();
        let mut connection = Connection::open(server.address);
        for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
            connection.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            // The head is here before any of the body has left.
            let mut reply = connection.head().unwrap();
            assert_eq!((reply.status, reply.field("connection")), (200, None), "{framing}");
            if framing.starts_with("Transfer") {
                connection.send("0\r\n\r\n");
            } else {
                connection.send("x".repeat(1_000_000));
            }
            connection.body(&mut reply).expect("the body comes back");
        }
        assert_eq!(server.figure("/connections/accepted"), 1);
    }
}

#[test]
fn so_does_the_refusal_of_a_body_that_is_too_large() {
    let server = setup(fault_guests::component("faults")).options("--body-limit 4K").start();
    for bytes in UPLOAD_BYTES {
        let framing = format!("Content-Length: {bytes}");
        assert_eq!(upload(&server, "/read-body", bytes, &framing).unwrap(), (413, true), "{bytes} bytes");
    }
    assert_eq!(server.figure("/instances_created"), 0);
}

#[test]
fn so_does_the_refusal_of_a_head_that_is_too_large() {
    let server = setup(guest("hello")).options("--head-limit 16K").start();
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.get("/").status, 200);
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n");
    for _ in 0..1000 {
        connection.send(format!("x: {}\r\n", "y".repeat(4000)));
    }
    assert_eq!(connection.reply().status, 431);
}

#[test]
fn what_is_read_of_it_has_a_bound() {
    let server = setup(guest("hello")).options("--linger-limit 1M").start();
    let sent = upload(&server, "/", 200 << 20, &format!("Content-Length: {}", 200 << 20));
    assert!(sent.is_err(), "200 MiB were read");
    server.wait_for_figure("/connections/open", 0);
}

#[test]
fn how_long_it_is_read_has_a_bound_however_the_client_sends() {
    let server = setup(guest("hello")).options("--linger-timeout 0.5 --idle-timeout 600").start();
    let mut slow = Connection::open(server.address);
    let mut silent = Connection::open(server.address);
    for connection in [&mut slow, &mut silent] {
        connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegun");
        assert_eq!(connection.reply().status, 200);
        // The server sends no more.
        assert_eq!(connection.socket.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(server.figure("/connections/open"), 2);
    let trickle = std::thread::spawn(move || {
        while slow.socket.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    server.wait_for_figure("/connections/open", 0);
    trickle.join().unwrap();
}

#[test]
fn nobody_is_waited_for_who_has_sent_all() {
    let server = setup(guest("hello")).options("--linger-timeout 600").start();
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody",
    ];
    for request in requests {
        let mut connection = Connection::open(server.address);
        connection.send(request);
        assert_eq!(connection.reply().status, 200);
        if request.starts_with("GET") {
            server.wait_for_figure("/connections/open", 0);
        }
        connection.until_closed();
        server.wait_for_figure("/connections/open", 0);
    }
}

#[test]
fn a_server_that_stops_does_not_wait_long_for_what_is_still_sent() {
    let server = setup(guest("hello")).options("--linger-timeout 600").start();
    let mut connection = Connection::open(server.address);
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegun");
    assert_eq!(connection.reply().status, 200);
    assert!(server.stop().status.success());
}

#[tokio::test]
async fn an_upload_over_http2_that_nobody_reads_is_answered_too() {
    for (setup, path, status) in inattentive() {
        let server = setup.start();
        let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client;
        for bytes in UPLOAD_BYTES {
            client = client.ready().await.unwrap();
            let request = http::Request::post(format!("http://test{path}")).body(()).unwrap();
            let (reply, mut body) = client.send_request(request, false).unwrap();
            // More than there is room for waits here; the server says that it wants no more.
            let _ = body.send_data(Bytes::from(vec![b'x'; bytes]), true);
            let reply = reply.await.unwrap();
            assert_eq!(reply.status(), status, "{path}, {bytes} bytes");
            let mut body = reply.into_body();
            while let Some(data) = body.data().await {
                data.unwrap();
            }
        }
        assert_eq!(server.figure("/connections/accepted"), 1);
    }
}
