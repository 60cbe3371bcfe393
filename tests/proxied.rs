use std::io::Write;
use std::net::SocketAddr;

use crate::support::client::Connection;
use crate::support::server::{setup, setup_python};
use crate::support::{fault_guests, guest, nginx, root};

/// Sends an upload as a browser does: all of it, and then reads. The status.
fn upload(address: SocketAddr, path: &str, body: &[u8]) -> u16 {
    let mut connection = Connection::open(address);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    // The proxy may have the answer before the end, and need no more.
    let _ = connection.socket.write_all(head.as_bytes()).and_then(|()| connection.socket.write_all(body));
    connection.try_reply().map_or(0, |reply| reply.status)
}

const UPLOADS: [(usize, usize); 6] =
    [(8 << 10, 200), (17 << 10, 200), (64 << 10, 200), (300 << 10, 200), (2 << 20, 200), (20 << 20, 20)];

/// Counts what is not `status`, for uploads of each size.
fn others(address: SocketAddr, path: &str, status: u16) -> Vec<(usize, u16)> {
    let body = vec![b'x'; 20 << 20];
    let mut others = Vec::new();
    for (bytes, count) in UPLOADS {
        let told = (0..count).map(|_| upload(address, path, &body[..bytes]));
        others.extend(told.filter(|told| *told != status).map(|told| (bytes, told)));
    }
    others
}

#[test]
fn nginx_gets_the_answer_of_a_guest_that_does_not_read_the_upload() {
    let guests = [
        (setup(guest("hello")), "/", 200),
        (setup(guest("hello-0.3")), "/", 200),
        (setup(fault_guests::component("program")), "/teapot", 418),
        (setup_python(root().join("tests/fixtures/faults.py")), "/pieces/1", 200),
    ];
    for (setup, path, status) in guests {
        let server = setup.start();
        for more in ["", "proxy_request_buffering off;"] {
            let nginx = nginx::before(server.address, more);
            let others = others(nginx.address, path, status);
            assert!(others.is_empty(), "{path} {more} {others:?}\n{}", nginx.errors());
        }
    }
}

#[test]
fn nginx_gets_the_refusal_of_a_body_that_is_too_large() {
    let server = setup(guest("hello")).options("--body-limit 4K").start();
    for more in ["", "proxy_request_buffering off;"] {
        let nginx = nginx::before(server.address, more);
        let others = others(nginx.address, "/", 413);
        assert!(others.is_empty(), "{more} {others:?}\n{}", nginx.errors());
    }
}
