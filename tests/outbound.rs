use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

use crate::support::client::{Connection, Reply};
use crate::support::server::{Server, program, setup};
use crate::support::tls::Authority;
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

/// A certificate of this authority and its key, as files in the folder: `NAME.pem`, `NAME.key`.
fn write_identity(authority: &Authority, folder: &Folder, name: &str) {
    let (certificate, key) = authority.certificate(&["client.test"]);
    let key_file = folder.join(&format!("{name}.key"));
    fs::write(folder.join(&format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_certificate_is_shown_to_the_destination_that_it_is_for() {
    let (authority, folder) = (Authority::new(), Folder::new());
    fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    write_identity(&authority, &folder, "known");
    write_identity(&Authority::new(), &folder, "stranger");
    let demanding = Upstream::start_by(authority.server_of_known_clients(&["localhost"]), hello);
    let other = Upstream::start_by(authority.server_of_known_clients(&["localhost"]), hello);
    let url = |upstream: &Upstream| format!("https://localhost:{}/", upstream.address.port());
    let path = |name: &str| folder.join(name).display().to_string();
    let show = |to: &str, name: &str| {
        format!("--client-certificate {to}={},{}", path(&format!("{name}.pem")), path(&format!("{name}.key")))
    };
    let port = demanding.address.port();
    for name in PROXIES {
        let serve = |options: &str| {
            let granted = "--cores 2 --allow-outbound https://localhost:* --allow-outbound-private";
            proxy(name, &format!("{granted} --ca-file {} {options}", path("ca.pem")))
        };
        let server = serve(&show(&format!("https://localhost:{port}"), "known"));
        for _ in 0..2 {
            assert_eq!(ask(&server, &url(&demanding)).text(), "hello", "{name}");
        }
        // It is for the first alone.
        let refused = ask(&server, &url(&other));
        assert!(code(&refused).starts_with("TlsAlertReceived"), "{name} {}", refused.text());
        assert!(refused.text().contains("CertificateRequired"), "{name} {}", refused.text());
        // Nobody knows who vouches for it.
        let refused = ask(&serve(&show("*://*:*", "stranger")), &url(&demanding));
        assert!(code(&refused).starts_with("TlsAlertReceived"), "{name} {}", refused.text());
        // Of two, the first.
        let both = format!("{} {}", show("https://localhost:*", "known"), show("*://*:*", "stranger"));
        let server = serve(&both);
        assert_eq!(ask(&server, &url(&other)).text(), "hello", "{name}");
        assert!(!server.stop().log.contains("chmod 600"), "{name}");
        // It grants nothing.
        let server = proxy(name, &format!("--cores 1 --allow-outbound https://a.test {both}"));
        assert_eq!(code(&ask(&server, &url(&demanding))), "HttpRequestDenied", "{name}");
    }
    fs::set_permissions(path("known.key"), Permissions::from_mode(0o644)).unwrap();
    let server =
        proxy("proxy", &format!("--allow-outbound https://a.test {}", show("https://a.test", "known")));
    let line = server.wait_for_line("everybody on this machine can read or change the key");
    assert!(line.ends_with("known.key; chmod 600 it"), "{line}");
}

#[test]
fn certificates_and_keys_are_checked_at_the_start() {
    let (authority, folder) = (Authority::new(), Folder::new());
    write_identity(&authority, &folder, "one");
    write_identity(&authority, &folder, "two");
    fs::write(folder.join("no.pem"), "nothing").unwrap();
    fs::write(
        folder.join("locked.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let rows = [
        ("one.pem", "two.key", "the key is not that of the certificate"),
        ("one.pem", "one.pem", "has no private key (PEM) without a password"),
        ("one.pem", "locked.key", "has no private key (PEM) without a password"),
        ("no.pem", "one.key", "has no certificates (PEM), or a malformed one"),
        ("none.pem", "one.key", "none.pem: No such file"),
        ("one.pem", "none.key", "none.key: No such file"),
    ];
    let start = |certificate: &str, key: &str, granted: &[&str]| {
        let named = format!("https://a.test={},{}", path(certificate), path(key));
        let mut command = program();
        command.arg("--guest").arg(guest("proxy")).args(["--http-socket", "127.0.0.1:0"]).args(granted);
        let output = command.args(["--client-certificate", &named]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let granted = ["--allow-outbound", "https://a.test"];
    for (certificate, key, says) in rows {
        let (code, said) = start(certificate, key, &granted);
        assert_eq!(code, Some(1), "{said}");
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("--client-certificate https://a.test") && flat.contains(says), "{said}");
        for secret in ["one.key", "two.key"].map(|name| fs::read_to_string(path(name)).unwrap()) {
            assert!(!said.contains(secret.lines().nth(1).unwrap()), "{said}");
        }
    }
    // A guest could put its own in their place, and nothing is granted.
    let data = path("");
    let (code, said) = start("one.pem", "one.key", &[&granted[..], &["--dir", &data]].concat());
    assert!(code == Some(64) && said.contains("one.pem"), "{said}");
    let (code, said) = start("one.pem", "one.key", &[]);
    assert!(code == Some(64) && said.contains("--allow-outbound"), "{said}");
}
