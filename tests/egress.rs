//! Destinations one by one, in every way to write them: what is granted, what is asked for, and
//! what arrives at servers that listen.

use std::io::Write;

use crate::support::client::{Connection, Reply};
use crate::support::peers::Peer;
use crate::support::server::{Server, setup, setup_python};
use crate::support::upstream::{Asked, Upstream};
use crate::support::{guest, packages, root, wait_for};

/// What is granted, and what becomes of each destination that is asked for. `PORT` is that of the
/// server that listens, `OTHER` that of another one, `BELOW` and `ABOVE` are the ports beside `PORT`.
type Table = &'static [(&'static str, &'static [(&'static str, &'static str)])];

/// Something arrived, and was answered.
const ARRIVES: &str = "arrives";
/// Nobody listens there, but it was tried.
const TRIED: &str = "tried";

/// By `wasi:http`: what else is expected is the name of an error.
const REQUESTS: Table = &[
    (
        "http://127.0.0.1:PORT",
        &[
            ("http://127.0.0.1:PORT/", ARRIVES),
            ("http://127.0.0.1:00PORT/", ARRIVES),
            ("http://[::ffff:127.0.0.1]:PORT/", ARRIVES),
            ("http://[::ffff:7f00:1]:PORT/", ARRIVES),
            ("http://[::FFFF:7F00:1]:PORT/", ARRIVES),
            ("http://[0:0:0:0:0:ffff:7f00:0001]:PORT/", ARRIVES),
            ("http://127.0.0.1:OTHER/", "HttpRequestDenied"),
            ("http://127.0.0.1:BELOW/", "HttpRequestDenied"),
            ("http://127.0.0.1:ABOVE/", "HttpRequestDenied"),
            ("https://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("HTTP://127.0.0.1:PORT/", "HttpProtocolError"),
            ("ws://127.0.0.1:PORT/", "HttpProtocolError"),
            ("file://127.0.0.1:PORT/", "HttpProtocolError"),
            ("http://127.0.0.1/", "HttpRequestDenied"),
            ("http://127.0.0.2:PORT/", "HttpRequestDenied"),
            ("http://0.0.0.0:PORT/", "HttpRequestDenied"),
            ("http://0:PORT/", "HttpRequestDenied"),
            ("http://[::]:PORT/", "HttpRequestDenied"),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
            ("http://[::127.0.0.1]:PORT/", "HttpRequestDenied"),
            ("http://[::ffff:0:127.0.0.1]:PORT/", "HttpRequestDenied"),
            ("http://[64:ff9b::7f00:1]:PORT/", "HttpRequestDenied"),
            ("http://[64:ff9b::127.0.0.1]:PORT/", "HttpRequestDenied"),
            ("http://[2002:7f00:1::]:PORT/", "HttpRequestDenied"),
            ("http://[2001:0:7f00:1::]:PORT/", "HttpRequestDenied"),
            ("http://localhost:PORT/", "HttpRequestDenied"),
            ("http://2130706433:PORT/", "HttpRequestDenied"),
            ("http://0x7f000001:PORT/", "HttpRequestDenied"),
            ("http://0X7F.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://0x7f.1:PORT/", "HttpRequestDenied"),
            ("http://0177.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://017700000001:PORT/", "HttpRequestDenied"),
            ("http://127.000.000.001:PORT/", "HttpRequestDenied"),
            ("http://127.1:PORT/", "HttpRequestDenied"),
            ("http://127.0.1:PORT/", "HttpRequestDenied"),
            ("http://127.0.0.1.:PORT/", "HttpRequestDenied"),
            ("http://user@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://user:secret@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:PORT@evil.test/", "HttpRequestUriInvalid"),
            ("http://evil.test@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://evil.test:80@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:PORT#@evil.test/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:PORT\\@evil.test/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1%3aPORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1%00:PORT/", "HttpRequestUriInvalid"),
            ("http://%31%32%37.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:0/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:65536/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:99999/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:-1/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:0xPORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:PORT:PORT/", "HttpRequestUriInvalid"),
            ("http://[::ffff:127.0.0.1/", "HttpRequestUriInvalid"),
            ("http://[::ffff:127.0.0.1%25lo]:PORT/", "HttpRequestUriInvalid"),
            ("http://[fe80::1%25eth0]:PORT/", "HttpRequestUriInvalid"),
            ("http:///", "HttpRequestUriInvalid"),
        ],
    ),
    // The usual port.
    (
        "http://127.0.0.77",
        &[
            ("http://127.0.0.77/", TRIED),
            ("http://127.0.0.77:80/", TRIED),
            ("http://127.0.0.77:443/", "HttpRequestDenied"),
            ("https://127.0.0.77:80/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://localhost:PORT",
        &[
            ("http://localhost:PORT/", "DestinationIpProhibited"),
            ("http://LOCALHOST:PORT/", "DestinationIpProhibited"),
            ("http://localhost.:PORT/", "DestinationIpProhibited"),
            ("http://127.0.0.1:PORT/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://localhost:PORT --allow-outbound-private",
        &[
            ("http://localhost:PORT/", ARRIVES),
            ("http://LOCALHOST:PORT/", ARRIVES),
            ("http://localhost.:PORT/", ARRIVES),
            ("http://localhost..:PORT/", "HttpRequestUriInvalid"),
            ("http://.localhost:PORT/", "HttpRequestUriInvalid"),
            ("http://local%68ost:PORT/", "HttpRequestUriInvalid"),
            ("http://local host:PORT/", "HttpRequestUriInvalid"),
            ("http://a.localhost:PORT/", "HttpRequestDenied"),
            ("http://alocalhost:PORT/", "HttpRequestDenied"),
            ("http://localhost.evil.test:PORT/", "HttpRequestDenied"),
            ("http://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
        ],
    ),
    ("HTTP://LocalHost.:PORT --allow-outbound-private", &[("http://localhost:PORT/", ARRIVES)]),
    (
        "http://localhost:PORT --allow-outbound *://127.0.0.0/8:PORT",
        &[
            ("http://localhost:PORT/", ARRIVES),
            ("http://127.0.0.1:PORT/", ARRIVES),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
        ],
    ),
    // A range for another port grants the address of the name at none.
    (
        "http://localhost:PORT --allow-outbound *://127.0.0.0/8:OTHER",
        &[("http://localhost:PORT/", "DestinationIpProhibited")],
    ),
    (
        "http://*:PORT",
        &[
            ("http://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://10.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://172.16.0.1:PORT/", "HttpRequestDenied"),
            ("http://192.168.0.1:PORT/", "HttpRequestDenied"),
            ("http://0.0.0.0:PORT/", "HttpRequestDenied"),
            ("http://169.254.169.254:PORT/latest/meta-data/", "HttpRequestDenied"),
            ("http://[::ffff:169.254.169.254]:PORT/", "HttpRequestDenied"),
            ("http://168.63.129.16:PORT/", "HttpRequestDenied"),
            ("http://[fd00:ec2::254]:PORT/", "HttpRequestDenied"),
            ("http://[fe80::1]:PORT/", "HttpRequestDenied"),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
            ("http://[::]:PORT/", "HttpRequestDenied"),
            ("http://224.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://255.255.255.255:PORT/", "HttpRequestDenied"),
            ("http://100.64.0.1:PORT/", "HttpRequestDenied"),
            ("http://[64:ff9b::a9fe:a9fe]:PORT/", "HttpRequestDenied"),
            ("http://[64:ff9b:1::1]:PORT/", "HttpRequestDenied"),
            ("http://[2002:a9fe:a9fe::]:PORT/", "HttpRequestDenied"),
            ("http://localhost:PORT/", "DestinationIpProhibited"),
            // These are names that the system takes for addresses.
            ("http://2130706433:PORT/", "DestinationIpProhibited"),
            ("http://0x7f000001:PORT/", "DestinationIpProhibited"),
            ("http://017700000001:PORT/", "DestinationIpProhibited"),
            ("http://0177.0.0.1:PORT/", "DestinationIpProhibited"),
            ("http://127.1:PORT/", "DestinationIpProhibited"),
            ("http://127.0.1:PORT/", "DestinationIpProhibited"),
            ("http://0:PORT/", "DestinationIpProhibited"),
            ("http://127.0.0.1.:PORT/", "DestinationIpProhibited"),
            ("http://2852039166:PORT/", "DestinationIpProhibited"),
            ("http://localhost:OTHER/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://*:PORT --allow-outbound-private",
        &[
            ("http://127.0.0.1:PORT/", ARRIVES),
            ("http://localhost:PORT/", ARRIVES),
            ("http://[::ffff:127.0.0.1]:PORT/", ARRIVES),
            ("http://127.1:PORT/", ARRIVES),
        ],
    ),
    (
        "*://127.0.0.0/8:PORT",
        &[
            ("http://127.0.0.1:PORT/", ARRIVES),
            ("http://127.255.255.254:OTHER/", "HttpRequestDenied"),
            ("http://126.255.255.255:PORT/", "HttpRequestDenied"),
            ("http://128.0.0.1:PORT/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://127.0.0.2/31:PORT",
        &[
            ("http://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://127.0.0.2:PORT/", TRIED),
            ("http://127.0.0.3:PORT/", TRIED),
            ("http://127.0.0.4:PORT/", "HttpRequestDenied"),
        ],
    ),
    // The bits behind the prefix do not count.
    ("http://127.9.9.9/8:PORT", &[("http://127.0.0.1:PORT/", ARRIVES)]),
    (
        "http://0.0.0.0/0:PORT",
        &[("http://127.0.0.1:PORT/", ARRIVES), ("http://[::1]:PORT/", "HttpRequestDenied")],
    ),
    ("http://[::ffff:127.0.0.1]:PORT", &[("http://127.0.0.1:PORT/", ARRIVES)]),
    ("http://[::]/0:PORT", &[("http://127.0.0.1:PORT/", "HttpRequestDenied")]),
    (
        "http://127.0.0.1:BELOW-PORT",
        &[("http://127.0.0.1:PORT/", ARRIVES), ("http://127.0.0.1:ABOVE/", "HttpRequestDenied")],
    ),
    (
        "http://127.0.0.1:ABOVE-65535",
        &[("http://127.0.0.1:PORT/", "HttpRequestDenied"), ("http://127.0.0.1:65535/", TRIED)],
    ),
    // What is spoken is another thing.
    (
        "https://127.0.0.1:PORT --allow-outbound tcp://127.0.0.1:PORT --allow-outbound redis://127.0.0.1:PORT",
        &[("http://127.0.0.1:PORT/", "HttpRequestDenied")],
    ),
    (
        "http://*.test:PORT --allow-outbound-private",
        &[
            ("http://test:PORT/", "HttpRequestDenied"),
            ("http://atest:PORT/", "HttpRequestDenied"),
            ("http://a.test.evil:PORT/", "HttpRequestDenied"),
            ("http://.test:PORT/", "HttpRequestUriInvalid"),
            ("http://a..test:PORT/", "HttpRequestUriInvalid"),
            ("http://*.test:PORT/", "HttpRequestUriInvalid"),
            ("http://a.b.test:PORT/", "Dns"),
            ("http://A.B.TEST.:PORT/", "Dns"),
            ("ftp://a.b.test:PORT/", "HttpProtocolError"),
            ("http://a.b.test:+PORT/", "HttpRequestUriInvalid"),
            ("http://b\u{fc}cher.test:PORT/", "HttpRequestUriInvalid"),
            ("http://xn--bcher-kva.test:PORT/", "Dns"),
        ],
    ),
    (
        "http://b\u{fc}cher.test:PORT",
        &[("http://XN--bcher-kva.test:PORT/", "Dns"), ("http://bucher.test:PORT/", "HttpRequestDenied")],
    ),
];

/// By sockets, `HOST PORT`: by WASI 0.2 and 0.3, and by Python, where it differs behind a `|`.
const SOCKETS: Table = &[
    (
        "postgres://127.0.0.1:PORT",
        &[
            ("127.0.0.1 PORT", ARRIVES),
            ("127.0.0.1 OTHER", "AccessDenied"),
            ("127.0.0.1 BELOW", "AccessDenied"),
            ("127.0.0.1 ABOVE", "AccessDenied"),
            ("127.0.0.2 PORT", "AccessDenied"),
            ("0.0.0.0 PORT", "InvalidArgument"),
            (":: PORT", "InvalidArgument"),
            ("::1 PORT", "AccessDenied"),
            // Whoever looks it up is told the address of IPv4. A socket of IPv6 has none.
            ("::ffff:127.0.0.1 PORT", "arrives|InvalidArgument"),
            ("::ffff:127.0.0.2 PORT", "AccessDenied|InvalidArgument"),
            ("::127.0.0.1 PORT", "AccessDenied"),
            ("64:ff9b::7f00:1 PORT", "AccessDenied"),
            ("2002:7f00:1:: PORT", "AccessDenied"),
            ("fd00:ec2::254 80", "AccessDenied"),
            ("169.254.169.254 80", "AccessDenied"),
            ("255.255.255.255 PORT", "AccessDenied"),
            ("2130706433 PORT", "NameUnresolvable"),
            ("0x7f000001 PORT", "NameUnresolvable"),
            ("0177.0.0.1 PORT", "NameUnresolvable"),
            ("127.1 PORT", "NameUnresolvable"),
            ("localhost PORT", "NameUnresolvable"),
            ("127.0.0.1. PORT", "NameUnresolvable"),
            ("127.0.0.%31 PORT", "NameUnresolvable"),
            ("a..b PORT", "NameUnresolvable"),
        ],
    ),
    (
        "https://127.0.0.0/8:PORT",
        &[
            ("127.0.0.1 PORT", ARRIVES),
            ("127.0.0.1 OTHER", "AccessDenied"),
            ("128.0.0.1 PORT", "AccessDenied"),
        ],
    ),
    ("udp://127.0.0.1:PORT", &[("127.0.0.1 PORT", "AccessDenied")]),
    (
        "*://*:PORT",
        &[
            ("127.0.0.1 PORT", "AccessDenied"),
            ("169.254.169.254 PORT", "AccessDenied"),
            ("localhost PORT", "NameUnresolvable"),
            ("2130706433 PORT", "NameUnresolvable"),
            ("127.1 PORT", "NameUnresolvable"),
            ("0 PORT", "NameUnresolvable"),
        ],
    ),
    (
        "*://*:PORT --allow-outbound-private",
        &[("127.0.0.1 PORT", ARRIVES), ("localhost PORT", ARRIVES), ("127.0.0.1 OTHER", "AccessDenied")],
    ),
    (
        "tcp://localhost:PORT --allow-outbound-private",
        &[
            // By the address alone nobody knows that it is that of the name.
            ("127.0.0.1 PORT", "AccessDenied"),
            ("LOCALHOST. PORT", ARRIVES),
            ("localhost OTHER", "AccessDenied"),
            ("a.localhost PORT", "NameUnresolvable"),
        ],
    ),
    ("tcp://*.localhost:PORT --allow-outbound-private", &[("localhost PORT", "NameUnresolvable")]),
];

/// A server that listens, and another one for which nothing is granted.
struct Ports {
    port: u16,
    other: u16,
}

impl Ports {
    fn filled(&self, text: &str) -> String {
        text.replace("PORT", &self.port.to_string())
            .replace("OTHER", &self.other.to_string())
            .replace("BELOW", &(self.port - 1).to_string())
            .replace("ABOVE", &(self.port + 1).to_string())
    }
}

fn granted(what: &str, ports: &Ports) -> String {
    format!("--cores 2 --outbound-connect-timeout 5 --allow-outbound {}", ports.filled(what))
}

fn hello(_: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
}

/// What a guest answers that is told by this field where to go.
fn ask(server: &Server, field: &str, destination: &str) -> Reply {
    let mut connection = Connection::open(server.address);
    connection.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{field}: {destination}\r\nContent-Length: 5\r\n\r\nhello"
    ));
    connection.reply()
}

#[test]
fn the_table_is_long() {
    let rows = |table: Table| table.iter().map(|(_, rows)| rows.len()).sum::<usize>();
    assert!(rows(REQUESTS) >= 120 && rows(SOCKETS) >= 40, "{} {}", rows(REQUESTS), rows(SOCKETS));
}

fn check_requests(name: &str) {
    let (upstream, other) = (Upstream::start(hello), Upstream::start(hello));
    let ports = Ports { port: upstream.address.port(), other: other.address.port() };
    let mut wrong = Vec::new();
    for (what, rows) in REQUESTS {
        let server = setup(guest(name)).options(&granted(what, &ports)).start();
        for (url, expected) in *rows {
            let before = upstream.asked().len();
            let reply = ask(&server, "X-Upstream", &ports.filled(url));
            let came = upstream.asked().len() - before;
            let error = reply.text().strip_prefix("ErrorCode::").unwrap_or_default();
            let is_right = match *expected {
                ARRIVES => (reply.status, reply.text(), came) == (200, "hello", 1),
                TRIED => reply.status == 502 && came == 0 && error.starts_with("Connection"),
                expected => reply.status == 502 && came == 0 && error.starts_with(expected),
            };
            if !is_right {
                wrong.push(format!(
                    "{what} {url}: {} {}, {came} came, not {expected}",
                    reply.status,
                    reply.text()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(other.asked().len(), 0);
}

#[test]
fn requests_of_0_2_go_where_they_may() {
    check_requests("proxy");
}

#[test]
fn requests_of_0_3_go_where_they_may() {
    check_requests("proxy-0.3");
}

/// A client by sockets: what it makes of `HOST PORT`, as the table has it.
type Client = fn(&Server, &str, &str) -> String;

fn check_sockets(start: impl Fn(&str) -> Server, column: usize, client: Client) {
    let (peer, other) = (Peer::echo(), Peer::echo());
    let ports = Ports { port: peer.port(), other: other.port() };
    let (mut wrong, mut expected_count) = (Vec::new(), 0);
    for (what, rows) in SOCKETS {
        let server = start(&granted(what, &ports));
        for (asked, expected) in *rows {
            let asked = ports.filled(asked);
            let (host, port) = asked.split_once(' ').expect("a host and a port");
            let expected = expected.split('|').cycle().nth(column).expect("it goes round");
            let came = client(&server, host, port);
            if !came.to_ascii_lowercase().contains(&expected.to_ascii_lowercase()) {
                wrong.push(format!("{what} {asked}: {came}, not {expected}"));
            }
            expected_count += usize::from(expected == ARRIVES);
            wait_for("the connection", || (peer.accepted() >= expected_count).then_some(()));
            assert_eq!(peer.accepted(), expected_count, "{what} {asked}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(other.accepted(), 0);
}

/// By the guests `connect`, which send a text and get it back.
fn by_wasi(server: &Server, host: &str, port: &str) -> String {
    let reply = ask(server, "X-Connect", &format!("{host}:{port}"));
    match (reply.status, reply.text()) {
        (200, "hello") => ARRIVES.to_owned(),
        // One writes names as the interface does, one as Rust.
        (_, text) => text.replace('-', ""),
    }
}

#[test]
fn sockets_of_0_2_connect_where_they_may() {
    check_sockets(|options| setup(guest("connect")).options(options).start(), 0, by_wasi);
}

#[test]
fn sockets_of_0_3_connect_where_they_may() {
    check_sockets(|options| setup(guest("connect-0.3")).options(options).start(), 0, by_wasi);
}

fn python(options: &str) -> Server {
    setup_python(root().join("tests/fixtures/sockets.py"))
        .option("--pythonpath", packages::requests())
        .option("--pythonpath", packages::redis())
        .options(options)
        .start()
}

fn by_python(server: &Server, host: &str, port: &str) -> String {
    let host = host.replace('%', "%25");
    let answer = server.get(&format!("/connect?host={host}&port={port}")).text().to_owned();
    let kinds = [
        ("connected", ARRIVES),
        ("PermissionError EACCES", "AccessDenied"),
        ("gaierror", "NameUnresolvable"),
        ("UnicodeError", "NameUnresolvable"),
        ("OSError EINVAL", "InvalidArgument"),
    ];
    let known = kinds.iter().find(|(begin, _)| answer.starts_with(begin));
    known.map_or(answer.clone(), |(_, kind)| (*kind).to_owned())
}

#[test]
fn sockets_of_python_connect_where_they_may() {
    check_sockets(python, 1, by_python);
}

/// Answers with a redirect to what the query names.
fn redirect(asked: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    let path = asked.head[0].split(' ').nth(1).unwrap_or_default();
    match path.strip_prefix("/to?") {
        Some(to) => write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"),
        None => hello(asked, stream),
    }
}

#[test]
fn redirects_are_the_guests_own_and_are_checked_as_any_request() {
    let (upstream, other) = (Upstream::start(redirect), Upstream::start(hello));
    let ports = Ports { port: upstream.address.port(), other: other.address.port() };
    let options = granted("http://127.0.0.1:PORT", &ports);
    let to = |what: &str| ports.filled(&format!("http://127.0.0.1:PORT/to?{what}"));
    let metadata = "http://169.254.169.254/latest/";
    for name in ["proxy", "proxy-0.3"] {
        let server = setup(guest(name)).options(&options).start();
        let reply = ask(&server, "X-Upstream", &to(metadata));
        assert_eq!((reply.status, reply.field("location")), (302, Some(metadata)));
    }
    // One that follows them by itself.
    let server = python(&options);
    for client in ["requests", "urllib"] {
        let follow = |what: &str| server.get(&format!("/{client}?url={}", to(what))).text().to_owned();
        assert_eq!(follow("http://127.0.0.1:PORT/"), "200 hello", "{client}");
        for refused in [metadata, "http://127.0.0.1:OTHER/", "http://127.0.0.2:PORT/"] {
            let answer = follow(refused);
            assert!(answer.contains("Permission denied"), "{client} {refused}: {answer}");
        }
        let answer = follow("http://localhost:PORT/");
        assert!(answer.contains("Name does not resolve"), "{client}: {answer}");
    }
    assert_eq!(other.asked().len(), 0);
}

/// The hosts that a request was for, as the one who was asked has read it.
fn hosts(asked: &Asked) -> Vec<String> {
    let lines = asked.head.iter().map(|line| line.to_ascii_lowercase());
    lines.filter_map(|line| Some(line.strip_prefix("host: ")?.to_owned())).collect()
}

#[test]
fn where_a_request_goes_is_no_matter_of_its_host_field() {
    let (upstream, other) = (Upstream::start(hello), Upstream::start(hello));
    let ports = Ports { port: upstream.address.port(), other: other.address.port() };
    let (to, elsewhere) = (ports.filled("http://127.0.0.1:PORT/"), ports.filled("http://127.0.0.1:OTHER/"));
    let options = granted("http://127.0.0.1:PORT", &ports);
    let ask = |server: &Server, url: &str, host: &str| {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}\r\nX-Host: {host}\r\n\r\n"));
        connection.reply()
    };
    for name in ["proxy", "proxy-0.3"] {
        let server = setup(guest(name)).options(&options).start();
        assert_eq!(ask(&server, &to, "evil.test").text(), "hello");
        assert_eq!(hosts(&upstream.asked().pop().unwrap()), [upstream.address.to_string()], "{name}");
        let refused = ask(&server, &elsewhere, &upstream.address.to_string());
        assert_eq!(refused.text(), "ErrorCode::HttpRequestDenied", "{name}");
    }
    // What is said over a socket is the guest's affair; where it leads is not.
    let server = python(&options);
    let by_python =
        |url: &str, host: &str| server.get(&format!("/urllib?url={url}&host={host}")).text().to_owned();
    assert_eq!(by_python(&to, "evil.test"), "200 hello");
    assert_eq!(hosts(&upstream.asked().pop().unwrap()), ["evil.test"]);
    let refused = by_python(&elsewhere, &upstream.address.to_string());
    assert!(refused.contains("Permission denied"), "{refused}");
    assert_eq!(other.asked().len(), 0);
}
