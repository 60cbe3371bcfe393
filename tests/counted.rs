//! What is counted and written of outbound requests and connections.

use std::io::Write;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{self, Connection, Reply};
use crate::support::peers::{Peer, full_port};
use crate::support::server::{Server, setup, setup_python};
use crate::support::tls::{Authority, peer};
use crate::support::upstream::{Asked, Upstream};
use crate::support::{Folder, guest, root, wait_for};

fn answers(asked: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    let path = asked.head[0].split(' ').nth(1).unwrap_or_default();
    match path.split('?').next().unwrap_or_default() {
        "/silent" => sleep(Duration::from_secs(5)),
        "/closes" => return Err(std::io::ErrorKind::BrokenPipe.into()),
        "/no-http" => stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n")?,
        "/missing" => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        "/fails" => stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno")?,
        "/cut" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        "/pauses" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
            stream.flush()?;
            sleep(Duration::from_secs(5));
        }
        _ => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?,
    }
    Ok(())
}

/// A figure of outbound requests or connections, or 0.
fn count(server: &Server, place: &[&str]) -> u64 {
    let stats = server.stats();
    let figure = place.iter().try_fold(&stats["outbound"], |within, key| within.get(key));
    figure.and_then(Value::as_u64).unwrap_or(0)
}

fn wait_for_count(server: &Server, place: &[&str], value: u64) {
    wait_for(&format!("{place:?} to be {value}"), || (count(server, place) == value).then_some(()));
}

fn proxy(server: &Server, url: &str, times: &str) -> Reply {
    let mut connection = Connection::open(server.address);
    connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Upstream: {url}\r\nX-Timeouts: {times}\r\n\r\n"));
    connection.try_reply().unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// The lines of outbound requests and connections.
fn lines(server: &Server) -> Vec<String> {
    server.log().lines().filter(|line| line.starts_with("outbound - - [")).map(str::to_owned).collect()
}

#[test]
fn each_outcome_of_a_request_is_counted_and_has_a_line() {
    let upstream = Upstream::start(answers);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (of_here, of_names) = ("http://127.0.0.1:*", "HTTP://*.Invalid");
    let address = upstream.address;
    // What is asked, within which times, what is counted, and what the line has after the request.
    let rows = [
        (format!("http://{address}/?key=secret"), "", "2xx", "200 5 "),
        (format!("http://{address}/missing"), "", "4xx", "404 0 "),
        (format!("http://{address}/fails"), "", "5xx", "500 2 "),
        (format!("http://{address}/silent"), "1000 100 1000", "connection-read-timeout", "000 0 "),
        (format!("http://{address}/closes"), "", "connection-terminated", "000 0 "),
        (format!("http://{address}/no-http"), "", "http-protocol-error", "000 0 "),
        (format!("http://{address}/cut"), "", "http-response-incomplete", "200 5 "),
        (format!("http://{closed}/"), "", "connection-refused", "000 0 "),
        ("http://a.invalid/".to_owned(), "", "dns-error", "000 0 "),
    ];
    for name in ["proxy", "proxy-0.3"] {
        let options =
            format!("--cores 4 --log-outbound --allow-outbound {of_here} --allow-outbound {of_names}");
        let server = setup(guest(name)).options(&options).start();
        for (index, (url, times, outcome, says)) in rows.iter().enumerate() {
            let granted = if *outcome == "dns-error" { of_names } else { of_here };
            proxy(&server, url, times);
            wait_for_count(&server, &["requests", granted, outcome], 1);
            let host = url.split('/').nth(2).unwrap();
            let lines =
                wait_for("the line", || Some(lines(&server)).filter(|lines| lines.len() == index + 1));
            let line = lines.last().unwrap();
            let (_, request) = line.split_once("] ").unwrap();
            assert!(request.starts_with(&format!("\"GET http://{host}\" {says}")), "{name} {line}");
            assert_eq!(line.ends_with(outcome), !outcome.ends_with("xx"), "{name} {line}");
            assert_eq!(line.contains(" first-byte="), says.starts_with(['2', '4', '5']), "{name} {line}");
            assert!(line.contains(" sent=0"), "{name} {line}");
        }
        assert!(!server.log().contains("secret"), "{name}");
        // A body that comes too late is counted as that.
        proxy(&server, &format!("http://{address}/pauses"), "1000 1000 100");
        wait_for_count(&server, &["requests", of_here, "connection-read-timeout"], 2);
        let stats = server.stats();
        let times = |which: &str| stats["outbound"][which][of_here]["count"].as_u64().unwrap();
        assert_eq!((times("request_seconds"), times("first_byte_seconds")), (9, 5), "{name}");
        assert!((1..=9).contains(&times("connect_seconds")), "{name}");
        let shown = client::get(server.stats_address, "/metrics");
        let line =
            format!("wasm_serve_outbound_requests_total{{destination=\"{of_here}\",outcome=\"2xx\"}} 1");
        assert!(shown.text().lines().any(|shown| shown == line), "{line}: {}", shown.text());
        let line = format!("wasm_serve_outbound_first_byte_seconds_count{{destination=\"{of_here}\"}} 5");
        assert!(shown.text().lines().any(|shown| shown == line), "{line}: {}", shown.text());
    }
}

#[test]
fn a_request_that_is_given_up_and_what_it_sends_are_counted() {
    let upstream = Upstream::start(answers);
    let granted = format!("http://{}", upstream.address);
    for name in ["proxy", "proxy-0.3"] {
        let options = format!("--cores 4 --log-outbound --outbound-requests 1 --allow-outbound {granted}");
        let server = setup(guest(name)).options(&options).start();
        let (before, mut left) = (upstream.asked().len(), Connection::open(server.address));
        left.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Upstream: {granted}/silent\r\n\r\n"));
        wait_for("it to be asked", || (upstream.asked().len() > before).then_some(()));
        wait_for("one that finds no place", || {
            proxy(&server, &granted, "");
            (count(&server, &["requests", &granted, "connection-limit-reached"]) > 0).then_some(())
        });
        drop(left);
        wait_for_count(&server, &["requests", &granted, "cancelled"], 1);
        assert!(server.wait_for_line(" cancelled").contains("\" 000 0 "), "{name}");
        let mut connection = Connection::open(server.address);
        connection.send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nX-Upstream: {granted}/\r\nContent-Length: 7\r\n\r\n1234567"
        ));
        assert_eq!(connection.reply().status, 200, "{name}");
        let line = server.wait_for_line(&format!("\"PUT {granted}\" 200 5 "));
        assert!(line.contains(" sent=7"), "{name} {line}");
    }
}

#[test]
fn what_is_not_granted_is_counted_without_its_name_and_has_no_line() {
    for name in ["proxy", "proxy-0.3"] {
        for options in ["", "--allow-outbound https://granted.test"] {
            let server = setup(guest(name)).options("--cores 1 --log-outbound").options(options).start();
            for number in 0..3 {
                assert_eq!(proxy(&server, &format!("http://{number}.test/"), "").status, 502);
            }
            assert_eq!(count(&server, &["refused", "http"]), 3, "{name} {options}");
            assert_eq!(server.stats()["outbound"]["requests"], serde_json::json!({}), "{name}");
            assert!(!client::get(server.stats_address, "/metrics").text().contains(".test"), "{name}");
            assert!(lines(&server).is_empty(), "{name}");
        }
    }
}

#[test]
fn lines_are_written_only_if_they_are_wanted() {
    let upstream = Upstream::start(answers);
    let granted = format!("http://{}", upstream.address);
    for name in ["proxy", "proxy-0.3"] {
        let server = setup(guest(name)).options(&format!("--cores 1 --allow-outbound {granted}")).start();
        assert_eq!(proxy(&server, &granted, "").status, 200);
        wait_for_count(&server, &["requests", &granted, "2xx"], 1);
        assert_eq!(lines(&server), Vec::<String>::new(), "{name}");
    }
}

fn connect(server: &Server, destination: &str, body: &str) -> Reply {
    let length = body.len();
    let mut connection = Connection::open(server.address);
    connection.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Connect: {destination}\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    connection.reply()
}

#[test]
fn each_outcome_of_a_connection_is_counted_and_has_a_line() {
    let echo = Peer::echo();
    let (port, (full, _kept)) = (echo.port(), full_port());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for name in ["connect", "connect-0.3"] {
        let by_name = format!("tcp://localhost:{port}");
        let options = "--cores 2 --log-outbound --outbound-connect-timeout 1 --allow-outbound-private";
        let server = setup(guest(name))
            .options(&format!("{options} --allow-outbound {by_name} --allow-outbound tcp://127.0.0.1:*"))
            .start();
        let rows = [
            (format!("localhost:{port}"), by_name.as_str(), "connected", "- 5 "),
            (format!("127.0.0.1:{port}"), "tcp://127.0.0.1:*", "connected", "- 5 "),
            (closed.to_string(), "tcp://127.0.0.1:*", "connection-refused", "- 0 "),
            (full.to_string(), "tcp://127.0.0.1:*", "connection-timeout", "- 0 "),
        ];
        for (destination, granted, outcome, says) in rows {
            let reply = connect(&server, &destination, "hello");
            assert_eq!(reply.status == 200, outcome == "connected", "{name} {}", reply.text());
            wait_for_count(&server, &["connections", granted, outcome], 1);
            let line = server.wait_for_line(&format!("\"connect tcp://{destination}\" {says}"));
            assert_eq!(line.contains(" sent=5 connect="), outcome == "connected", "{name} {line}");
            assert_eq!(line.ends_with(outcome), outcome != "connected", "{name} {line}");
        }
        let connecting = &server.stats()["outbound"]["connect_seconds"][by_name.as_str()]["count"];
        assert_eq!(connecting, 1, "{name}");
        for destination in ["127.0.0.2:7", "other.test:7"] {
            assert_eq!(connect(&server, destination, "").status, 502);
        }
        let listening = client::get(server.address, "/?listen");
        assert_eq!(listening.status, 502);
        for kind in ["tcp", "lookup", "other"] {
            assert_eq!(count(&server, &["refused", kind]), 1, "{name} {kind}");
        }
        assert_eq!(lines(&server).len(), 4, "{name}");
    }
}

#[test]
fn connections_and_handshakes_of_python_are_counted() {
    let (known, folder) = (Authority::new(), Folder::new());
    std::fs::write(folder.join("ca.pem"), known.pem()).unwrap();
    let echo = |stream: &mut crate::support::tls::Stream| {
        let mut bytes = [0; 100];
        let count = std::io::Read::read(stream, &mut bytes)?;
        stream.write_all(&bytes[..count])
    };
    let good = peer(known.server(&["localhost"]), echo);
    let stranger = peer(Authority::new().server(&["localhost"]), echo);
    let plain = Peer::start(|mut stream| stream.write_all(b"220 no TLS at all, but plain text\r\n"));
    let server = setup_python(root().join("tests/fixtures/tls.py"))
        .option("--pythonpath", crate::support::packages::requests())
        .options("--cores 1 --log-outbound --allow-outbound tcp://localhost:* --allow-outbound-private")
        .options(&format!("--ca-file {}", folder.join("ca.pem").display()))
        .start();
    let rows = [(&good, "done"), (&stranger, "tls-certificate-error"), (&plain, "tls-protocol-error")];
    for (number, (peer, outcome)) in (1..).zip(rows) {
        server.get(&format!("/raw?port={}&kind=", peer.port()));
        wait_for_count(&server, &["tls", outcome], 1);
        wait_for_count(&server, &["connections", "tcp://localhost:*", "connected"], number);
        server.wait_for_line(&format!("\"connect tcp://localhost:{}\" - ", peer.port()));
    }
}
