use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::server::setup;
use crate::support::{fault_guests, guest};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
    [&[high, middle, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// GET or POST / of the authority `a`, as HPACK has them.
fn head(is_post: bool) -> Vec<u8> {
    let method = if is_post { 0x83 } else { 0x82 };
    [&[method, 0x86, 0x84, 0x41, 1][..], b"a"].concat()
}

/// What a connection sends at its beginning, and then again and again, and how much of it
/// at a time.
struct Mode {
    name: &'static str,
    first: Vec<u8>,
    then: Vec<u8>,
    piece_bytes: usize,
}

fn modes() -> Vec<Mode> {
    let mode = |name, first: &[u8], then: &[u8], piece_bytes| Mode {
        name,
        first: first.to_vec(),
        then: then.to_vec(),
        piece_bytes,
    };
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    let get = frame(1, 5, 1, &head(false));
    let post = frame(1, 4, 1, &head(true));
    let slow_field = [&head(false)[..], &[0, 1, b'x', 127, 0x80, 0x7d]].concat();
    let slow_head = |flags| {
        let mut head = frame(1, flags, 1, &[&slow_field[..], &[b'y'; 16127]].concat());
        head.truncate(9 + slow_field.len());
        [&begun[..], &head].concat()
    };
    vec![
        mode("silent", b"", b"", 1),
        mode("idle", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", 1),
        mode("a slow head", b"GET / HTTP/1.1\r\n", b"x: y\r\n", 1),
        mode("empty lines", b"", b"\r\n", 1),
        mode("a slow second head", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET ", b"/", 1),
        mode("a slow body", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n", b"x", 1),
        mode(
            "slow chunks",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            1,
        ),
        mode("half a preface", &PREFACE[..10], b"", 1),
        mode("a slow preface", &PREFACE[..1], &PREFACE[1..20], 1),
        mode("HTTP/2, silent", PREFACE, b"", 1),
        mode("HTTP/2, idle", &[&begun[..], &get].concat(), b"", 1),
        mode("HTTP/2, slow settings", PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255].repeat(50)), 1),
        mode("HTTP/2, settings again and again", PREFACE, &frame(SETTINGS, 0, 0, b""), 9),
        mode("HTTP/2, pings", &begun, &frame(PING, 0, 0, b"12345678"), 17),
        mode(
            "HTTP/2, pings after a request",
            &[&begun[..], &get].concat(),
            &frame(PING, 0, 0, b"12345678"),
            17,
        ),
        mode("HTTP/2, a slow head", &slow_head(4), b"y", 1),
        mode(
            "HTTP/2, a slow head in frames",
            &[&begun[..], &frame(1, 0, 1, &slow_field)].concat(),
            &frame(9, 0, 1, b"y"),
            10,
        ),
        mode("HTTP/2, a slow body", &[&begun[..], &post].concat(), &frame(0, 0, 1, b"x"), 1),
        mode("HTTP/2, unknown frames", &begun, &frame(200, 0, 0, b"x"), 10),
    ]
}

/// Sends a piece every 200 ms on each connection, until the server has closed all of them.
fn trickle(address: SocketAddr, mode: &Mode, count: usize) {
    let open = || {
        let mut socket = TcpStream::connect(address).expect("the server accepts");
        socket.write_all(&mode.first).expect("the server reads");
        socket.set_nonblocking(true).expect("a socket");
        socket
    };
    let mut sockets: Vec<TcpStream> = (0..count).map(|_| open()).collect();
    let pieces: Vec<&[u8]> = mode.then.chunks(mode.piece_bytes).collect();
    let since = Instant::now();
    for turn in 0.. {
        sockets.retain_mut(|socket| {
            let sent = match pieces.get(turn % pieces.len().max(1)) {
                Some(piece) => socket.write(piece),
                None => Ok(0),
            };
            sent.is_ok() && !is_closed(socket)
        });
        if sockets.is_empty() {
            return;
        }
        let left = sockets.len();
        assert!(since.elapsed() < Duration::from_secs(60), "{}: {left} connections stay", mode.name);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn is_closed(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn two_hundred_slow_connections_of_each_kind_end_and_others_do_not_notice() {
    let times = "--idle-timeout 1 --head-timeout 1 --body-timeout 1 --linger-timeout 1";
    let server = setup(guest("hello")).options(times).start();
    for mode in modes() {
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| trickle(server.address, &mode, 200));
            while !slow.is_finished() {
                assert_eq!(server.get("/").status, 200, "{}", mode.name);
                std::thread::sleep(Duration::from_millis(20));
            }
            slow.join().unwrap();
        });
        server.wait_for_figure("/connections/open", 0);
    }
}

#[test]
fn a_slow_head_beside_a_request_ends_the_connection() {
    let server = setup(fault_guests::component("faults")).options("--head-timeout 1").start();
    // `/wait` as a literal, which HPACK has no number for.
    let get = [&[0x82, 0x86, 0x44, 5][..], b"/wait", &[0x41, 1], b"a"].concat();
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(1, 5, 1, &get)].concat();
    let mut head = frame(1, 4, 3, &[b'y'; 1000]);
    head.truncate(10);
    let mode = Mode {
        name: "a slow head beside a request",
        first: [begun, head].concat(),
        then: b"y".to_vec(),
        piece_bytes: 1,
    };
    trickle(server.address, &mode, 5);
    server.wait_for_figure("/cores/busy", 0);
}

#[test]
fn a_connection_that_goes_on_asking_stays() {
    let server = setup(guest("hello")).options("--idle-timeout 2 --head-timeout 2").start();
    let mut connection = Connection::open(server.address);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        assert_eq!(connection.get("/").status, 200);
        std::thread::sleep(Duration::from_millis(100));
    }
}
