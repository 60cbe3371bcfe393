use std::io::Write;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

use crate::support::client::{Connection, Reply};
use crate::support::server::{Server, setup};
use crate::support::upstream::{Asked, EARLY, Upstream};
use crate::support::{Folder, guest, wait_for};

/// Guests that send what they get on, and the answer back.
const PROXIES: [&str; 2] = ["proxy", "proxy-0.3"];

fn proxy(name: &str, options: &str) -> Server {
    setup(guest(name)).options(options).start()
}

/// What the guest answers that asks this URL.
fn ask(server: &Server, url: &str) -> Reply {
    ask_within(server, url, "")
}

/// The same where the guest waits so many milliseconds.
fn ask_within(server: &Server, url: &str, times: &str) -> Reply {
    let mut connection = Connection::open(server.address);
    connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}\r\nX-Timeouts: {times}\r\n\r\n"));
    connection.reply()
}

/// The name of an error, with what comes with it.
fn code(reply: &Reply) -> &str {
    assert_eq!(reply.status, 502, "{}", reply.text());
    reply.text().strip_prefix("ErrorCode::").unwrap_or_else(|| panic!("{}", reply.text()))
}

fn hello(_: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nX-Of: upstream\r\nContent-Length: 5\r\n\r\nhello")
}

#[test]
fn requests_and_responses_pass_as_they_are() {
    let upstream = Upstream::start(|asked, stream| {
        let length = asked.body.len();
        write!(stream, "HTTP/1.1 201 Created\r\nX-Of: upstream\r\nContent-Length: {length}\r\n\r\n")?;
        stream.write_all(&asked.body)
    });
    let address = upstream.address;
    for name in PROXIES {
        let server = proxy(name, &format!("--cores 2 --allow-outbound http://{address}"));
        for bytes in [0, 10 << 10, 10 << 20] {
            let body = vec![b'x'; bytes];
            let mut connection = Connection::open(server.address);
            let url = format!("http://{address}/path?query={bytes}");
            connection.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}\r\nX-Mine: 1\r\nContent-Length: {bytes}\r\n\r\n"
            ));
            connection.send(&body);
            let reply = connection.reply();
            assert_eq!((reply.status, reply.field("x-of")), (201, Some("upstream")), "{name}");
            assert!(reply.complete && reply.body == body, "{name} {bytes}");
        }
        let last = upstream.asked().pop().expect("it was asked");
        assert_eq!(last.head[0], format!("POST /path?query={} HTTP/1.1", 10 << 20));
        let fields: Vec<String> = last.head[1..].iter().map(|line| line.to_ascii_lowercase()).collect();
        assert!(
            fields.contains(&format!("host: {address}")) && fields.contains(&"x-mine: 1".to_owned()),
            "{fields:?}"
        );
    }
}

/// What is granted of the upstream's own port, what is asked for, and what comes: `ok`, or the
/// name of an error. `PORT` is the upstream's, `OTHER` that of another one.
const DESTINATIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "http://127.0.0.1:PORT",
        &[
            ("http://127.0.0.1:PORT/", "ok"),
            ("http://[::ffff:127.0.0.1]:PORT/", "ok"),
            ("http://[::ffff:7f00:1]:PORT/", "ok"),
            ("http://127.0.0.1:OTHER/", "HttpRequestDenied"),
            ("https://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://127.0.0.1/", "HttpRequestDenied"),
            ("http://127.0.0.2:PORT/", "HttpRequestDenied"),
            ("http://0.0.0.0:PORT/", "HttpRequestDenied"),
            ("http://[::]:PORT/", "HttpRequestDenied"),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
            ("http://[::127.0.0.1]:PORT/", "HttpRequestDenied"),
            ("http://[64:ff9b::7f00:1]:PORT/", "HttpRequestDenied"),
            ("http://[2002:7f00:1::]:PORT/", "HttpRequestDenied"),
            ("http://localhost:PORT/", "HttpRequestDenied"),
            ("http://2130706433:PORT/", "HttpRequestDenied"),
            ("http://0x7f000001:PORT/", "HttpRequestDenied"),
            ("http://0x7f.1:PORT/", "HttpRequestDenied"),
            ("http://0177.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://127.1:PORT/", "HttpRequestDenied"),
            ("http://127.0.0.1.:PORT/", "HttpRequestDenied"),
            ("http://user@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://user:secret@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:PORT@evil.test/", "HttpRequestUriInvalid"),
            ("http://evil.test@127.0.0.1:PORT/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:0/", "HttpRequestUriInvalid"),
            ("http://127.0.0.1:99999/", "HttpRequestUriInvalid"),
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
            ("http://localhost:PORT/", "ok"),
            ("http://LOCALHOST:PORT/", "ok"),
            ("http://localhost.:PORT/", "ok"),
            ("http://a.localhost:PORT/", "HttpRequestDenied"),
            ("http://localhost.evil.test:PORT/", "HttpRequestDenied"),
            ("http://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://localhost:PORT --allow-outbound *://127.0.0.0/8:PORT",
        &[
            ("http://localhost:PORT/", "ok"),
            ("http://127.0.0.1:PORT/", "ok"),
            ("http://[::1]:PORT/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://*:PORT",
        &[
            ("http://127.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://10.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://169.254.169.254:PORT/latest/meta-data/", "HttpRequestDenied"),
            ("http://[fd00:ec2::254]:PORT/", "HttpRequestDenied"),
            ("http://[fe80::1]:PORT/", "HttpRequestDenied"),
            ("http://224.0.0.1:PORT/", "HttpRequestDenied"),
            ("http://255.255.255.255:PORT/", "HttpRequestDenied"),
            ("http://100.64.0.1:PORT/", "HttpRequestDenied"),
            ("http://[64:ff9b::a9fe:a9fe]:PORT/", "HttpRequestDenied"),
            ("http://[2002:a9fe:a9fe::]:PORT/", "HttpRequestDenied"),
            ("http://localhost:PORT/", "DestinationIpProhibited"),
            ("http://2130706433:PORT/", "DestinationIpProhibited"),
            ("http://0x7f000001:PORT/", "DestinationIpProhibited"),
            ("http://127.1:PORT/", "DestinationIpProhibited"),
            ("http://localhost:OTHER/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://*:PORT --allow-outbound-private",
        &[
            ("http://127.0.0.1:PORT/", "ok"),
            ("http://localhost:PORT/", "ok"),
            ("http://[::ffff:127.0.0.1]:PORT/", "ok"),
        ],
    ),
    (
        "*://127.0.0.0/8:PORT",
        &[
            ("http://127.0.0.1:PORT/", "ok"),
            ("http://127.255.255.254:OTHER/", "HttpRequestDenied"),
            ("http://128.0.0.1:PORT/", "HttpRequestDenied"),
        ],
    ),
    (
        "http://*.test:PORT --allow-outbound-private",
        &[
            ("http://test:PORT/", "HttpRequestDenied"),
            ("http://atest:PORT/", "HttpRequestDenied"),
            ("http://a.test.evil:PORT/", "HttpRequestDenied"),
            ("http://a.b.test:PORT/", "Dns"),
            ("ftp://a.b.test:PORT/", "HttpProtocolError"),
            ("http://a.b.test:+PORT/", "HttpRequestUriInvalid"),
            ("http://b\u{fc}cher.test:PORT/", "HttpRequestUriInvalid"),
            ("http://xn--bcher-kva.test:PORT/", "Dns"),
        ],
    ),
];

#[test]
fn destinations_are_those_that_are_granted() {
    let (upstream, other) = (Upstream::start(hello), Upstream::start(hello));
    let filled = |text: &str| {
        let (port, other) = (upstream.address.port().to_string(), other.address.port().to_string());
        text.replace("PORT", &port).replace("OTHER", &other)
    };
    let mut count = 0;
    for name in PROXIES {
        for (granted, asked) in DESTINATIONS {
            let server = proxy(name, &format!("--cores 2 --allow-outbound {}", filled(granted)));
            for (url, expected) in *asked {
                let before = upstream.asked().len();
                let reply = ask(&server, &filled(url));
                let came = upstream.asked().len() - before;
                match *expected {
                    "ok" => assert_eq!(
                        (reply.status, reply.text(), came),
                        (200, "hello", 1),
                        "{name} {granted} {url}"
                    ),
                    expected => {
                        assert!(
                            code(&reply).starts_with(expected),
                            "{name} {granted} {url}: {}",
                            reply.text()
                        );
                        assert_eq!(came, 0, "{name} {granted} {url}");
                    }
                }
                count += 1;
            }
        }
    }
    assert!(count >= 120, "{count}");
    assert_eq!(other.asked().len(), 0);
}

#[test]
fn what_is_not_granted_is_told_with_what_to_add_once() {
    for name in PROXIES {
        let server = proxy(name, "--cores 1");
        for _ in 0..3 {
            assert_eq!(code(&ask(&server, "https://api.example.com/")), "HttpRequestDenied");
        }
        let line = server.wait_for_line("https://api.example.com is not granted");
        assert!(line.ends_with("add --allow-outbound 'https://api.example.com'"), "{line}");
        assert_eq!(server.stop().log.matches("is not granted").count(), 1);
        let server = proxy(name, "--cores 1 --allow-outbound http://localhost:7");
        assert_eq!(code(&ask(&server, "http://localhost:7/")), "DestinationIpProhibited");
        let line = server.wait_for_line("is not public");
        assert!(line.contains("--allow-outbound-private"), "{line}");
    }
}

#[test]
fn redirects_are_the_guests_own_and_are_checked_as_any_request() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        )
    });
    for name in PROXIES {
        let server = proxy(name, &format!("--cores 1 --allow-outbound http://{}", upstream.address));
        let reply = ask(&server, &format!("http://{}/", upstream.address));
        assert_eq!((reply.status, reply.field("location")), (302, Some("http://169.254.169.254/")));
    }
}

/// Paths of an upstream that fails in many ways.
fn fails(asked: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    let path = asked.head[0].split(' ').nth(1).unwrap_or_default();
    match path {
        "/silent" => sleep(Duration::from_secs(5)),
        "/closes" => return Err(std::io::ErrorKind::BrokenPipe.into()),
        "/no-http" => stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n")?,
        "/large-head" => {
            write!(stream, "HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(100 << 10))?;
        }
        "/cut" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        "/pauses" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
            stream.flush()?;
            sleep(Duration::from_secs(5));
        }
        _ => hello(asked, stream)?,
    }
    Ok(())
}

#[test]
fn each_failure_has_its_code() {
    let upstream = Upstream::start(fails);
    // Nobody listens there: its port is free again.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for name in PROXIES {
        let server =
            proxy(name, "--cores 4 --allow-outbound http://127.0.0.1:* --allow-outbound http://*.invalid:80");
        let rows = [
            (format!("http://{closed}/"), "", "ConnectionRefused"),
            ("http://a.invalid/".to_owned(), "", "Dns"),
            (format!("http://{}/silent", upstream.address), "1000 100 1000", "ConnectionReadTimeout"),
            (format!("http://{}/closes", upstream.address), "", "ConnectionTerminated"),
            (format!("http://{}/no-http", upstream.address), "", "HttpProtocolError"),
            (format!("http://{}/large-head", upstream.address), "", "HttpResponseHeaderSectionSize"),
        ];
        for (url, times, expected) in rows {
            let reply = ask_within(&server, &url, times);
            assert_eq!(reply.status, 502, "{name} {url}");
            assert!(code(&reply).starts_with(expected), "{name} {url}: {}", reply.text());
        }
        // After the head it is too late for a code: the transfer breaks.
        for (path, times) in [("/cut", ""), ("/pauses", "1000 1000 100")] {
            let reply = ask_within(&server, &format!("http://{}{path}", upstream.address), times);
            assert_eq!((reply.status, reply.complete), (200, false), "{name} {path}");
        }
        assert_eq!(ask(&server, &format!("http://{}/", upstream.address)).text(), "hello");
    }
}

#[test]
fn the_servers_limits_hold_whatever_a_guest_asks_for() {
    let upstream = Upstream::start(fails);
    let url = format!("http://{}", upstream.address);
    for name in PROXIES {
        let options =
            "--cores 4 --outbound-requests 1 --outbound-response-timeout 2 --outbound-read-timeout 2";
        let server = proxy(name, &format!("{options} --allow-outbound {url}"));
        let mut first = Connection::open(server.address);
        first.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}/pauses\r\nX-Timeouts: 60000 60000 60000\r\n\r\n"
        ));
        assert_eq!(first.head().unwrap().status, 200);
        assert_eq!(code(&ask(&server, &url)), "ConnectionLimitReached", "{name}");
        // The first one ends by the limit.
        first.until_closed();
        wait_for("the first one's place", || (ask(&server, &url).status == 200).then_some(()));
        let reply = ask_within(&server, &format!("{url}/silent"), "60000 60000 60000");
        assert_eq!(code(&reply), "ConnectionReadTimeout", "{name}");
        let server = proxy(name, &format!("--cores 1 --outbound-per-instance 0 --allow-outbound {url}"));
        assert_eq!(code(&ask(&server, &url)), "ConnectionLimitReached", "{name}");
    }
}

#[test]
fn a_guest_call_that_ends_ends_its_requests() {
    let upstream = Upstream::start(fails);
    let url = format!("http://{}", upstream.address);
    for name in PROXIES {
        let server =
            proxy(name, &format!("--cores 2 --harakiri 1 --outbound-requests 1 --allow-outbound {url}"));
        // By its deadline, and by its client.
        assert_eq!(ask(&server, &format!("{url}/silent")).status, 504);
        wait_for("the place of the first", || (ask(&server, &url).status == 200).then_some(()));
        let mut left = Connection::open(server.address);
        left.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}/silent\r\n\r\n"));
        server.wait_for_figure("/cores/busy", 1);
        drop(left);
        wait_for("the place of the second", || (ask(&server, &url).status == 200).then_some(()));
    }
}

#[test]
fn a_body_that_is_cut_off_never_passes_as_whole() {
    for name in PROXIES {
        let upstream = Upstream::start(hello);
        let url = format!("http://{}", upstream.address);
        let server = proxy(name, &format!("--cores 4 --harakiri 2 --allow-outbound {url}"));
        let begin = |framing: &str, piece: &str| {
            let mut connection = Connection::open(server.address);
            connection
                .send(format!("POST / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}\r\n{framing}\r\n\r\n{piece}"));
            connection
        };
        let chunked = "Transfer-Encoding: chunked";
        // Also where the answer came before it was cut off.
        for (framing, piece) in [
            (chunked.to_owned(), "5\r\nhello\r\n"),
            ("Content-Length: 10".to_owned(), "hello"),
            (format!("{EARLY}\r\n{chunked}"), "5\r\nhello\r\n"),
        ] {
            let (framing, before) = (framing.as_str(), upstream.broken());
            // By its client, and by its deadline.
            let left = begin(framing, piece);
            sleep(Duration::from_millis(500));
            drop(left);
            let mut late = begin(framing, piece);
            let _ = late.try_reply();
            wait_for("both to break off", || (upstream.broken() == before + 2).then_some(()));
        }
        assert_eq!(upstream.asked().len(), 0, "{name}");
        let mut whole = begin("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(whole.reply().status, 200);
        assert_eq!(upstream.asked()[0].body, b"hello");
    }
}

#[test]
fn certificates_are_checked_by_name_and_authority() {
    let folder = Folder::new();
    let upstream = Upstream::start_tls(&folder, &["localhost"], hello);
    let other = Folder::new();
    let of_another_name = Upstream::start_tls(&other, &["other.test"], hello);
    let ca =
        [&folder, &other].map(|folder| format!("--ca-file {}", folder.join("ca.pem").display())).join(" ");
    let granted = "--cores 2 --allow-outbound https://localhost:* --allow-outbound-private";
    let url = |upstream: &Upstream| format!("https://localhost:{}/", upstream.address.port());
    for name in PROXIES {
        let server = proxy(name, &format!("{granted} {ca}"));
        assert_eq!(ask(&server, &url(&upstream)).text(), "hello", "{name}");
        assert_eq!(code(&ask(&server, &url(&of_another_name))), "TlsCertificateError", "{name}");
        // What speaks no TLS.
        let plain = Upstream::start(hello);
        let reply = ask_within(&server, &url(&plain), "2000 2000 2000");
        assert!(
            code(&reply).starts_with("TlsProtocolError") || code(&reply).starts_with("Connection"),
            "{}",
            reply.text()
        );
        let server = proxy(name, granted);
        assert_eq!(code(&ask(&server, &url(&upstream))), "TlsCertificateError", "{name}");
    }
}
