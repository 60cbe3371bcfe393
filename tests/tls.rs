//! TLS over the sockets of guests, which is the server's: of Python applications, and by `wasi:tls`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustls::ServerConfig;

use crate::support::client::{Connection, Reply};
use crate::support::peers::Peer;
use crate::support::server::{Server, setup, setup_python};
use crate::support::tls::{Authority, Stream, peer, wrapped};
use crate::support::upstream::{Asked, Upstream};
use crate::support::{Folder, guest, packages, root, wait_for};

/// A server for `tests/fixtures/tls.py`, which may connect to all that is on this machine.
fn serve(options: &str) -> Server {
    setup_python(root().join("tests/fixtures/tls.py"))
        .option("--pythonpath", packages::requests())
        .options("--cores 1 --allow-outbound tcp://localhost:* --allow-outbound-private")
        .options(options)
        .start()
}

/// The same, whose operator believes the authority of `folder`.
fn serve_with_authority(folder: &Folder) -> Server {
    serve(&format!("--ca-file {}", folder.join("ca.pem").display()))
}

/// What one of its functions answers, or the exception that it raises.
fn ask(server: &Server, path: &str) -> String {
    let reply = server.get(path);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text().to_owned()
}

/// An authority, whose certificate is in a folder.
fn authority() -> (Authority, Folder) {
    let (authority, folder) = (Authority::new(), Folder::new());
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    (authority, folder)
}

/// Sends back what it gets, as it comes.
fn echo(stream: &mut Stream) -> std::io::Result<()> {
    let mut bytes = [0; 16 << 10];
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..count])?;
    }
}

fn same_body(asked: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    let body = match asked.body.is_empty() {
        true => asked.head[0].as_bytes(),
        false => &asked.body,
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}

#[test]
fn clients_of_http_ask_by_https() {
    let folder = Folder::new();
    let upstream = Upstream::start_tls(&folder, &["localhost", "127.0.0.1"], same_body);
    let (server, port) = (serve_with_authority(&folder), upstream.address.port());
    let url = format!("https://localhost:{port}/path");
    assert_eq!(ask(&server, &format!("/urllib?url={url}")), "200 GET /path HTTP/1.1");
    assert_eq!(ask(&server, &format!("/requests?url={url}")), "200 GET /path HTTP/1.1");
    assert_eq!(ask(&server, &format!("/requests?url={url}&verify=False")), "200 GET /path HTTP/1.1");
    let both = "['GET /path HTTP/1.1', 'GET /path HTTP/1.1']";
    assert_eq!(ask(&server, &format!("/session?url={url}")), both);
    assert_eq!(ask(&server, &format!("/body?port={port}&count={}", 8 << 20)), "True");
}

#[test]
fn certificates_are_checked_as_the_context_says() {
    let (known, folder) = authority();
    let unknown = Authority::new();
    let good = peer(known.server(&["localhost"]), echo);
    let other_name = peer(known.server(&["other.test"]), echo);
    let stranger = peer(unknown.server(&["localhost"]), echo);
    let plain = Peer::start(|mut stream| stream.write_all(b"220 no TLS at all, but plain text\r\n"));
    let server = serve_with_authority(&folder);
    let name = "SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, certificate is not valid for 'localhost'.";
    let issuer = "SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate";
    let rows = [
        (&good, "", "hello"),
        (&good, "no_name", "hello"),
        (&good, "nothing", "hello"),
        // What the operator names is a part of the system's.
        (&good, "no_authorities", issuer),
        (&good, "1.2", "hello"),
        (&good, "1.3", "hello"),
        (&other_name, "", name),
        (&other_name, "no_name", "hello"),
        (&other_name, "nothing", "hello"),
        (&stranger, "", issuer),
        (&stranger, "no_name", issuer),
        (&stranger, "no_authorities", issuer),
        (&stranger, "nothing", "hello"),
        (&plain, "", "SSLError: [SSL: SSLV3_ALERT_HANDSHAKE_FAILURE]"),
    ];
    for (peer, kind, says) in rows {
        let answer = ask(&server, &format!("/raw?port={}&kind={kind}", peer.port()));
        assert!(answer.starts_with(says), "{kind}: {answer}");
    }
    let url = format!("https://localhost:{}/", stranger.port());
    for function in ["urllib", "requests"] {
        let refused = ask(&server, &format!("/{function}?url={url}"));
        assert!(refused.contains("CERTIFICATE_VERIFY_FAILED"), "{refused}");
    }
    // Nobody has named it.
    let answer = ask(&serve(""), &format!("/raw?port={}", good.port()));
    assert_eq!(answer, issuer);
}

#[test]
fn a_program_names_authorities_and_shows_its_own_certificate() {
    let (known, folder) = authority();
    let (certificate, key) = known.certificate(&["client.test"]);
    std::fs::write(folder.join("client.pem"), certificate.pem()).unwrap();
    // As `openssl rehash` names it.
    std::fs::copy(folder.join("ca.pem"), folder.join("0123abcd.0")).unwrap();
    std::fs::write(folder.join("client.key"), key.serialize_pem()).unwrap();
    let good = peer(known.server(&["localhost"]), echo);
    let demanding = peer(known.server_of_known_clients(&["localhost"]), echo);
    let stranger = peer(Authority::new().server(&["localhost"]), echo);
    let server = serve(&format!("--dir {}::/keys", folder.0.display()));
    for kind in ["cafile", "cadata", "capath"] {
        assert_eq!(ask(&server, &format!("/raw?port={}&kind={kind}", good.port())), "hello", "{kind}");
        let refused = ask(&server, &format!("/raw?port={}&kind={kind}", stranger.port()));
        assert!(refused.starts_with("SSLCertVerificationError"), "{kind}: {refused}");
    }
    // Its key would vouch for any name.
    let refused = ask(&server, &format!("/raw?port={}&kind=leaf", good.port()));
    assert!(refused.starts_with("NotImplementedError: a certificate that is no authority's"), "{refused}");
    let upstream_folder = Folder::new();
    let upstream = Upstream::start_tls(&upstream_folder, &["localhost"], same_body);
    std::fs::copy(upstream_folder.join("ca.pem"), folder.join("other.pem")).unwrap();
    let url = format!("https://localhost:{}/", upstream.address.port());
    let by_file = ask(&server, &format!("/requests?url={url}&verify=/keys/other.pem"));
    assert_eq!(by_file, "200 GET / HTTP/1.1");
    assert_eq!(ask(&server, &format!("/raw?port={}&kind=client", demanding.port())), "hello");
    let refused = ask(&server, &format!("/raw?port={}&kind=cafile", demanding.port()));
    assert!(refused.starts_with("SSLError: [SSL: TLSV1_ALERT_CERTIFICATE_REQUIRED]"), "{refused}");
}

#[test]
fn a_program_is_told_what_was_agreed_on() {
    let (known, folder) = authority();
    let mut config = known.server(&["localhost"]);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let peer = peer(config, echo);
    let server = serve_with_authority(&folder);
    let told = |kind: &str| ask(&server, &format!("/told?port={}&kind={kind}", peer.port()));
    let names = "(('DNS', 'localhost'),)";
    assert_eq!(told("alpn"), format!("('TLSv1.3', ('TLSv1.3', 256), 'http/1.1', {names}, True)"));
    assert_eq!(told("1.2"), format!("('TLSv1.2', ('TLSv1.2', 256), None, {names}, True)"));
    assert_eq!(told("nothing"), "('TLSv1.3', ('TLSv1.3', 256), None, None, True)");
}

/// Tells nobody that it ends.
fn breaks_off(stream: &mut Stream) -> std::io::Result<()> {
    stream.write_all(b"all of")?;
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Both)
}

fn ends_well(stream: &mut Stream) -> std::io::Result<()> {
    stream.write_all(b"all of it")?;
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Write)?;
    stream.sock.read_to_end(&mut Vec::new()).map(|_| ())
}

#[test]
fn an_end_is_told_from_a_connection_that_breaks() {
    let (known, folder) = authority();
    let (good, broken) =
        (peer(known.server(&["localhost"]), ends_well), peer(known.server(&["localhost"]), breaks_off));
    let server = serve_with_authority(&folder);
    let until_end =
        |peer: &Peer, strict: &str| ask(&server, &format!("/until_end?port={}&strict={strict}", peer.port()));
    assert_eq!(until_end(&good, ""), "all of it");
    assert_eq!(until_end(&good, "yes"), "all of it");
    // As `ssl` has it, unless it is asked for more.
    assert_eq!(until_end(&broken, ""), "all of");
    let failure = until_end(&broken, "yes");
    assert!(failure.starts_with("SSLEOFError: [SSL: UNEXPECTED_EOF_WHILE_READING]"), "{failure}");
    // One that ends before there is anything.
    let gone = Peer::start(|stream| stream.shutdown(Shutdown::Both));
    let failure = ask(&server, &format!("/raw?port={}", gone.port()));
    assert!(failure.starts_with("SSLEOFError") || failure.starts_with("ConnectionReset"), "{failure}");
}

/// TLS, and after its end the same socket without it.
fn unwraps(config: &Arc<ServerConfig>, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = wrapped(config, stream)?;
    let mut none = [0; 1];
    assert_eq!(stream.read(&mut none)?, 0);
    stream.conn.send_close_notify();
    stream.flush()?;
    let mut bytes = [0; 5];
    stream.sock.read_exact(&mut bytes)?;
    stream.sock.write_all(&bytes)
}

#[test]
fn sockets_of_all_kinds_speak_tls() {
    let (known, folder) = authority();
    let echo = peer(known.server(&["localhost"]), echo);
    let config = Arc::new(known.server(&["localhost"]));
    let unwrapping = Peer::start(move |stream| unwraps(&config, stream));
    let server = serve_with_authority(&folder);
    let count = 8 << 20;
    assert_eq!(ask(&server, &format!("/bulk?port={}&count={count}", echo.port())), count.to_string());
    assert_eq!(ask(&server, &format!("/timeout?port={}", echo.port())), "The read operation timed out 0");
    assert_eq!(ask(&server, &format!("/unwrap?port={}", unwrapping.port())), "plain");
    let one = "(True, (('DNS', 'localhost'),))";
    assert_eq!(ask(&server, &format!("/asyncio?port={}&count=1000000", echo.port())), one);
    let many = ask(&server, &format!("/asyncio_many?port={}", echo.port()));
    assert_eq!(many, format!("[{one}, {one}, {one}]"));
    let refused = ask(&server, &format!("/asyncio?port={}&name=other.test", echo.port()));
    assert!(refused.starts_with("SSLCertVerificationError"), "{refused}");
}

/// What `smtplib` needs of a server that begins TLS in the middle.
fn takes_mail(config: &Arc<ServerConfig>, mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"220 mail.test ESMTP\r\n")?;
    assert!(line(&mut stream)?.starts_with("ehlo"));
    stream.write_all(b"250-mail.test\r\n250 STARTTLS\r\n")?;
    assert_eq!(line(&mut stream)?, "STARTTLS");
    stream.write_all(b"220 go on\r\n")?;
    let mut stream = wrapped(config, stream)?;
    loop {
        let answer: &[u8] = match line(&mut stream)?.to_ascii_lowercase().as_str() {
            "" => return Ok(()),
            "data" => b"354 go on\r\n",
            "quit" => b"221 bye\r\n",
            text if text.contains(':') && !text.starts_with("mail") && !text.starts_with("rcpt") => continue,
            "a line." => continue,
            _ => b"250 well\r\n",
        };
        stream.write_all(answer)?;
    }
}

fn line(stream: &mut impl Read) -> std::io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    // An empty line of a mail is none of the end.
    match &line[..] {
        b"\r" => self::line(stream),
        _ => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
    }
}

#[test]
fn smtplib_begins_tls_in_the_middle() {
    let (known, folder) = authority();
    let config = Arc::new(known.server(&["localhost"]));
    let mail = Peer::start(move |stream| takes_mail(&config, stream));
    let server = serve_with_authority(&folder);
    assert_eq!(ask(&server, &format!("/smtp?port={}", mail.port())), "{}");
}

#[test]
fn a_call_that_is_cut_off_leaves_no_connection() {
    let (known, folder) = authority();
    let echo = peer(known.server(&["localhost"]), echo);
    let server = serve_with_authority(&folder);
    assert_eq!(ask(&server, &format!("/many?port={}&count=200", echo.port())), "200");
    let before = server.open_files();
    for _ in 0..3 {
        let (accepted, ended) = (echo.accepted(), echo.ended());
        let mut client = Connection::open(server.address);
        client.send(format!("GET /wait?port={} HTTP/1.1\r\nHost: a\r\n\r\n", echo.port()));
        wait_for("the connection", || (echo.accepted() > accepted).then_some(()));
        drop(client);
        wait_for("its end", || (echo.ended() > ended).then_some(()));
        wait_for("the socket to be closed", || (server.open_files() <= before).then_some(()));
    }
}

#[test]
fn an_instance_that_holds_too_many_connections_ends() {
    let server = serve("");
    assert_eq!(ask(&server, "/hold?count=100"), "100");
    assert_eq!(server.get("/hold?count=20000").status, 500);
    assert_eq!(ask(&server, "/hold?count=100"), "100");
}

#[test]
fn what_cannot_be_done_is_said() {
    let server = serve("");
    let rows = [
        ("server", "NotImplementedError: a server's side (server_side=True)"),
        ("ciphers", "NotImplementedError: a choice of ciphers (ECDHE-RSA-AES128-SHA)"),
        ("revoked", "NotImplementedError: lists of revoked certificates"),
        ("callback", "NotImplementedError: a server's side (sni_callback)"),
        ("psk", "NotImplementedError: keys that both sides know (PSK)"),
        ("old", "SSLError: [SSL: NO_PROTOCOLS_AVAILABLE]"),
        ("lookup", "FileNotFoundError"),
    ];
    for (what, says) in rows {
        let answer = ask(&server, &format!("/refuses?what={what}"));
        assert!(answer.starts_with(says), "{what}: {answer}");
    }
}

/// Guests that speak TLS by `wasi:tls`, and HTTP over it by hand.
const GUESTS: [&str; 2] = ["tls", "tls-0.3"];

/// A server for one of them.
fn serve_guest(name: &str, folder: &Folder, options: &str) -> Server {
    setup(guest(name))
        .options("--cores 4 --allow-outbound tcp://localhost:* --allow-outbound-private")
        .options(&format!("--ca-file {} {options}", folder.join("ca.pem").display()))
        .start()
}

/// What comes of a request that such a guest makes of another one.
fn exchange(server: &Server, port: u16, name: &str, body: Option<&[u8]>) -> Reply {
    let mut connection = Connection::open(server.address);
    let length = body.map(|body| format!("Content-Length: {}\r\n", body.len())).unwrap_or_default();
    let method = if body.is_some() { "POST" } else { "GET" };
    connection.send(format!(
        "{method} /path HTTP/1.1\r\nHost: a\r\nX-Connect: localhost:{port}\r\nX-Name: {name}\r\n{length}\r\n"
    ));
    connection.send(body.unwrap_or_default());
    connection.reply()
}

/// Answers one request with its first line, or its body. Whether the connection ends as TLS says.
fn answer_once(stream: &mut Stream, has_end: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut *stream);
    let (mut first, mut length) = (String::new(), 0);
    lines.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body)?;
    let body = if body.is_empty() { first.trim().as_bytes() } else { &body };
    stream.write_all(b"HTTP/1.1 201 Created\r\n\r\n")?;
    stream.write_all(body)?;
    if has_end {
        stream.conn.send_close_notify();
    }
    stream.flush()
}

#[test]
fn guests_in_other_languages_speak_tls_by_wasi_tls() {
    let (authority, folder) = authority();
    let peer = peer(authority.server(&["localhost"]), |stream| answer_once(stream, true));
    for name in GUESTS {
        let server = serve_guest(name, &folder, "");
        let reply = exchange(&server, peer.port(), "", None);
        assert_eq!((reply.status, reply.text()), (201, "GET /path HTTP/1.1"), "{name}");
        for bytes in [0, 1, 100_000, 8 << 20] {
            let body: Vec<u8> = (0..bytes).map(|at: u32| (at % 251) as u8).collect();
            let reply = exchange(&server, peer.port(), "", Some(&body));
            let expected: &[u8] = if bytes == 0 { b"POST /path HTTP/1.1" } else { &body };
            assert_eq!((reply.status, reply.complete), (201, true), "{name} {bytes}: {}", reply.text());
            assert!(reply.body == expected, "{name} {bytes}: {}", reply.body.len());
        }
        server.wait_for_figure("/outbound/tls/done", 5);
        assert_eq!(server.figure("/outbound/connections/tcp:~1~1localhost:*/connected"), 5);
    }
}

#[test]
fn wasi_tls_checks_certificates_and_says_what_is_wrong() {
    let (known, folder) = authority();
    let once = |stream: &mut Stream| answer_once(stream, true);
    let good = peer(known.server(&["localhost"]), once);
    let other_name = peer(known.server(&["other.test"]), once);
    let stranger = peer(Authority::new().server(&["localhost"]), once);
    let plain = Peer::start(|mut stream| stream.write_all(b"220 no TLS at all, but plain text\r\n"));
    let silent = Peer::idle();
    let rows = [
        (&good, "", 201, "GET /path", "done"),
        (&other_name, "other.test", 201, "GET /path", "done"),
        (
            &other_name,
            "",
            502,
            "tls: TLS: invalid peer certificate: certificate not valid for name",
            "tls-certificate-error",
        ),
        (
            &good,
            "127.0.0.1",
            502,
            "tls: TLS: invalid peer certificate: certificate not valid for name",
            "tls-certificate-error",
        ),
        (&stranger, "", 502, "tls: TLS: invalid peer certificate: UnknownIssuer", "tls-certificate-error"),
        (&plain, "", 502, "tls: TLS: received corrupt message", "tls-protocol-error"),
        (&silent, "", 502, "tls: connecting took too long", "connection-timeout"),
        (&good, "a..b", 502, "tls: it is no name or address of a server", ""),
    ];
    for name in GUESTS {
        let server = serve_guest(name, &folder, "--outbound-connect-timeout 1");
        for (peer, asked, status, says, outcome) in &rows {
            let count = |outcome: &str| server.stats()["outbound"]["tls"][outcome].as_u64().unwrap_or(0);
            let before = count(outcome);
            let reply = exchange(&server, peer.port(), asked, None);
            assert_eq!(reply.status, *status, "{name} {says}: {}", reply.text());
            assert!(reply.text().starts_with(says), "{name}: {}", reply.text());
            assert_eq!(count(outcome), before + u64::from(!outcome.is_empty()), "{name} {says}");
        }
        // Who wants a certificate says so when TLS is done, at the first reading.
        let demanding = peer_of_known_clients(&known);
        let reply = exchange(&server, demanding.port(), "", None);
        assert_eq!(reply.status, 502, "{name}: {}", reply.text());
        // Nobody has named the authority.
        let server = setup(guest(name))
            .options("--cores 1 --allow-outbound tcp://localhost:* --allow-outbound-private")
            .start();
        let reply = exchange(&server, good.port(), "", None);
        assert!(reply.text().contains("UnknownIssuer"), "{name}: {}", reply.text());
    }
}

fn peer_of_known_clients(authority: &Authority) -> Peer {
    peer(authority.server_of_known_clients(&["localhost"]), |stream| answer_once(stream, true))
}

#[test]
fn what_is_cut_off_is_not_whole_by_wasi_tls() {
    let (authority, folder) = authority();
    let peer = peer(authority.server(&["localhost"]), |stream| answer_once(stream, false));
    for name in GUESTS {
        let server = serve_guest(name, &folder, "");
        let reply = exchange(&server, peer.port(), "", None);
        assert_eq!((reply.status, reply.complete), (201, false), "{name}: {}", reply.text());
    }
}

#[test]
fn a_client_that_leaves_ends_connections_of_wasi_tls() {
    let (authority, folder) = authority();
    let silent = Peer::idle();
    let slow = peer(authority.server(&["localhost"]), |stream| {
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {}
        Ok(())
    });
    for name in GUESTS {
        let server = serve_guest(name, &folder, "--threads 1 --harakiri 60");
        let before = server.open_files();
        for peer in [&silent, &slow] {
            let (accepted, ended) = (peer.accepted(), peer.ended());
            let mut left = Connection::open(server.address);
            left.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Connect: localhost:{}\r\n\r\n", peer.port()));
            wait_for("the connection", || (peer.accepted() == accepted + 1).then_some(()));
            drop(left);
            wait_for("its end", || (peer.ended() == ended + 1).then_some(()));
        }
        wait_for("the sockets to be closed", || (server.open_files() <= before + 1).then_some(()));
    }
}
