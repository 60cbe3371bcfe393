use std::io::Write;
use std::net::SocketAddr;
use std::thread;

use crate::support::client::Connection;
use crate::support::server::{setup, setup_python};
use crate::support::{fault_guests, guest, nginx, packages, root};

/// Sends an upload as a browser does: all of it, and then reads. The status.
fn upload(address: SocketAddr, path: &str, body: &[u8]) -> u16 {
    let mut connection = Connection::open(address);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    // The proxy may have the answer before the end, and need no more.
    let _ = connection.socket.write_all(head.as_bytes()).and_then(|()| connection.socket.write_all(body));
    connection.try_reply().map_or(0, |reply| reply.status)
}

const BYTES_MAX: usize = 20 << 20;

/// How many uploads there are of how many bytes.
type Uploads = [(usize, usize)];

const UPLOADS: &Uploads =
    &[(8 << 10, 200), (17 << 10, 200), (64 << 10, 200), (300 << 10, 200), (2 << 20, 200), (BYTES_MAX, 20)];

/// The uploads whose answer is not `status`: how large they are, and what it is.
fn others(address: SocketAddr, path: &str, status: u16, uploads: &Uploads) -> Vec<(usize, u16)> {
    let body = vec![b'x'; BYTES_MAX];
    let mut others = Vec::new();
    for &(bytes, count) in uploads {
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
    ];
    for (setup, path, status) in guests {
        let server = setup.start();
        for more in ["", "proxy_request_buffering off;"] {
            let nginx = nginx::before(server.address, more);
            let others = others(nginx.address, path, status, UPLOADS);
            assert!(others.is_empty(), "{path} {more} {others:?}\n{}", nginx.errors());
        }
    }
}

/// Flask as it is, and 200 uploads of each size.
#[test]
fn nginx_gets_the_answer_of_a_flask_application_that_does_not_read_the_upload() {
    const CLIENTS: usize = 4;
    const OF_EACH: &Uploads = &[(8 << 10, 50), (64 << 10, 50), (1 << 20, 50), (BYTES_MAX, 10)];
    let flask = setup_python(root().join("tests/fixtures/unread.py"));
    let server = flask.option("--pythonpath", packages::flask()).start();
    for (more, path, status) in [("", "/refused", 403), ("proxy_request_buffering off;", "/answered", 200)] {
        let nginx = nginx::before(server.address, more);
        let others: Vec<_> = thread::scope(|scope| {
            let client = || others(nginx.address, path, status, OF_EACH);
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("it does not panic")).collect()
        });
        assert!(others.is_empty(), "{path} {more} {others:?}\n{}", nginx.errors());
    }
}

#[test]
fn nginx_gets_the_refusal_of_a_body_that_is_too_large() {
    let server = setup(guest("hello")).options("--body-limit 4K").start();
    for more in ["", "proxy_request_buffering off;"] {
        let nginx = nginx::before(server.address, more);
        let others = others(nginx.address, "/", 413, UPLOADS);
        assert!(others.is_empty(), "{more} {others:?}\n{}", nginx.errors());
    }
}
