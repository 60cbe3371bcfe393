use std::net::Shutdown;

use bytes::Bytes;

use crate::support::client::{Connection, Reply};
use crate::support::server::{Server, Setup, setup, setup_python};
use crate::support::{fault_guests, guest, root};

/// Guests for each way to serve: one that answers first, and one that reads the body.
fn guests() -> Vec<(Setup, &'static str, &'static str)> {
    let faults = |name| setup(fault_guests::component(name));
    vec![
        (faults("faults"), "/hello", "/read-body"),
        (setup(guest("hello-0.3")), "/", "/"),
        (setup(guest("echo-0.3")), "/", "/"),
        (faults("program"), "/teapot", "/echo"),
        (faults("program-0.2"), "/teapot", "/echo"),
        (setup_python(root().join("tests/fixtures/faults.py")), "/pieces/1", "/by_sizes"),
    ]
}

const CHUNKS: [&str; 30] = [
    "5;\r\nhello\r\n0\r\n\r\n",
    "5;=\r\nhello\r\n0\r\n\r\n",
    "5;=x\r\nhello\r\n0\r\n\r\n",
    "5;bad[=x\r\nhello\r\n0\r\n\r\n",
    "5;a=\r\nhello\r\n0\r\n\r\n",
    "5;a=\"x\r\nhello\r\n0\r\n\r\n",
    "5;a \r\nhello\r\n0\r\n\r\n",
    "5;a=b\0\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "1_0\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-1\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhelloworld\r\n0\r\n\r\n",
    "4\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\nx\r\n\r\n",
    "5\r\nhello\r\n0\r\nx y: z\r\n\r\n",
    "5\r\nhello\r\n0\r\nx: \0\r\n\r\n",
];

fn assert_guest_has_not_failed(server: &Server) {
    let stats = server.stats();
    for (name, count) in stats.pointer("/requests/failures").unwrap().as_object().unwrap() {
        assert!(name == "bad_request" || count == 0, "{name}: {count}");
    }
    let log = server.log();
    let strange = |line: &&str| !line.contains(" HTTP/") && !line.starts_with("guest: ");
    assert_eq!(log.lines().find(strange), None);
}

#[test]
fn malformed_chunks_are_the_clients_fault_whatever_the_guest_does() {
    for (setup, answers, reads) in guests() {
        let server = setup.start();
        let mut count = 0;
        for path in [answers, reads] {
            for chunks in CHUNKS {
                for at_once in [true, false] {
                    if !at_once && path == answers {
                        // It may have answered before the body came.
                        continue;
                    }
                    let mut connection = Connection::open(server.address);
                    let head =
                        format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                    if at_once {
                        connection.send(format!("{head}{chunks}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
                    } else {
                        connection.send(head);
                        connection.send(chunks);
                    }
                    // A guest that passes the body on may have begun its answer: that breaks.
                    match connection.try_reply() {
                        Ok(Reply { status: 200, complete, .. }) if !at_once => {
                            assert!(!complete, "{path} {chunks:?}")
                        }
                        Ok(reply) => {
                            assert_eq!(reply.status, 400, "{path} {chunks:?} {at_once}");
                            assert_eq!(reply.field("connection"), Some("close"));
                            count += 1;
                        }
                        Err(error) => panic!("{path} {chunks:?} {at_once}: {error}"),
                    }
                    assert_eq!(connection.until_closed(), b"", "{path} {chunks:?}");
                }
            }
        }
        assert!(count >= 60, "{count}");
        // Also of those that had begun.
        assert!(server.figure("/requests/failures/bad_request") >= count);
        assert_guest_has_not_failed(&server);
        assert!(!server.stop().log.contains("/smuggled"));
    }
}

#[test]
fn a_malformed_head_is_not_run() {
    let server = setup(guest("hello")).start();
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked";
    let heads = [
        ("/", "Transfer-Encoding: chunked, chunked"),
        ("/", "Transfer-Encoding: gzip, chunked"),
        ("/", "Transfer-Encoding: identity, chunked"),
        ("/", "Transfer-Encoding: , chunked"),
        ("/", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("/", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("/", "Transfer-Encoding: chunked, identity"),
        ("/", "Transfer-Encoding: identity"),
        ("/", both),
        ("/\u{e9}", "Transfer-Encoding: chunked"),
        ("/?\u{e9}", "Transfer-Encoding: chunked"),
    ];
    for (target, fields) in heads {
        let mut connection = Connection::open(server.address);
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        connection.send(format!("{head}0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(connection.reply().status, 400, "{target} {fields}");
        assert_eq!(connection.until_closed(), b"", "{fields}");
    }
    let mut connection = Connection::open(server.address);
    connection.send(b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.reply().status, 400);
    assert_eq!(server.figure("/instances_created"), 0);
    assert!(!server.stop().log.contains("/smuggled"));
}

#[test]
fn well_formed_chunks_are_none_of_that() {
    let server = setup(guest("echo")).start();
    let mut connection = Connection::open(server.address);
    let bodies = [
        "5\r\nhello\r\n0\r\n\r\n",
        "005;a\r\nhello\r\n000;b=c\r\n\r\n",
        "2 ; a = b ; c=\"d\\\"\t\"\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\nempty:\r\n\r\n",
        "5\r\nhello\r\n0\r\nx-sum: \u{e9}\r\n\r\n",
    ];
    for chunks in bodies {
        // Pipelined, and then byte by byte.
        let sent = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        connection.send(sent.repeat(2));
        for _ in 0..2 {
            assert_eq!(connection.reply().text(), "hello", "{chunks:?}");
        }
        for byte in sent.bytes() {
            connection.send([byte]);
        }
        assert_eq!(connection.reply().text(), "hello", "{chunks:?}");
    }
    assert_eq!(server.figure("/connections/accepted"), 1);
}

#[test]
fn a_fault_in_a_later_request_does_not_concern_an_earlier_one() {
    let server = setup(guest("hello")).start();
    let mut connection = Connection::open(server.address);
    connection.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2));
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n");
    assert_eq!([(); 3].map(|()| connection.reply().status), [200, 200, 400]);
    assert_eq!(connection.until_closed(), b"");
}

#[test]
fn a_body_that_is_cut_short_is_the_clients_fault_too() {
    for (setup, _, path) in guests() {
        if path == "/" {
            continue;
        }
        let server = setup.start();
        for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
            let mut connection = Connection::open(server.address);
            connection.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}"));
            server.wait_for_figure("/cores/busy", 1);
            connection.socket.shutdown(Shutdown::Write).unwrap();
            let reply = connection.reply();
            // What echoes has begun.
            let is_broken = path == "/echo" && reply.status == 200 && !reply.complete;
            assert!(reply.status == 400 || is_broken, "{path} {framing} {reply:?}");
            connection.until_closed();
            server.wait_for_figure("/cores/busy", 0);
        }
        assert_guest_has_not_failed(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_over_http2() {
    for (setup, _, path) in guests() {
        if path == "/" {
            continue;
        }
        let server = setup.start();
        for reason in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
            let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let (client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            let mut client = client.ready().await.unwrap();
            let request = http::Request::post(format!("http://test{path}")).body(()).unwrap();
            let (reply, mut body) = client.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            server.wait_for_figure("/cores/busy", 1);
            body.send_reset(reason);
            let _ = reply.await;
            server.wait_for_figure("/cores/busy", 0);
        }
        assert_guest_has_not_failed(&server);
        assert!(path == "/echo" || server.figure("/requests/answered/2xx") == 0, "{path}");
    }
}
