use std::collections::HashMap;
use std::os::unix::net::UnixStream;

use super::{ask, faults, file, root};
use crate::support::client::Connection;
use crate::support::server::{Server, setup_python};
use crate::support::{Folder, wait_for};

fn validated(options: &str) -> Server {
    setup_python(file("applications/validated.py")).options(options).start()
}

/// The environ of the application that gives it as text, each value as Python's
/// `repr` shows it.
fn environ(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_environ_is_that_of_pep_3333() {
    let server = validated("--cores 2");
    let mut connection = Connection::open(server.address);
    connection.send(
        b"POST /a%20b/%C3%A9%2f?q=%20x&y=? HTTP/1.1\r\nHost: example.org:81\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\
        X-Twice: 1\r\nX-Twice: 2\r\nCookie: a=1\r\nCookie: b=2\r\nX-Latin: caf\xe9\r\n\
        Proxy: http://bad.example\r\nX_Real_Ip: 9.9.9.9\r\nX-Forwarded-For: 9.9.9.9\r\n\r\nabc",
    );
    let reply = connection.reply();
    assert_eq!(reply.status, 200);
    let environ = environ(reply.text());
    let port = format!("'{}'", server.address.port());
    let rows = [
        ("REQUEST_METHOD", "'POST'"),
        ("SCRIPT_NAME", "''"),
        // The bytes of the path, each as one character.
        ("PATH_INFO", "'/a b/Ã©/'"),
        ("QUERY_STRING", "'q=%20x&y=?'"),
        ("CONTENT_TYPE", "'text/plain; charset=utf-8'"),
        ("CONTENT_LENGTH", "'3'"),
        ("SERVER_NAME", "'127.0.0.1'"),
        ("SERVER_PORT", &port),
        ("SERVER_PROTOCOL", "'HTTP/1.1'"),
        ("REMOTE_ADDR", "'127.0.0.1'"),
        ("HTTP_HOST", "'example.org:81'"),
        ("HTTP_X_LATIN", "'café'"),
        ("HTTP_COOKIE", "'a=1; b=2'"),
        ("wsgi.version", "(1, 0)"),
        ("wsgi.url_scheme", "'http'"),
        ("wsgi.run_once", "False"),
        ("wsgi.multithread", "False"),
    ];
    for (key, value) in rows {
        assert_eq!(environ.get(key), Some(&value), "{key}");
    }
    let twice: Vec<&str> = environ["HTTP_X_TWICE"].trim_matches('\'').split(',').map(str::trim).collect();
    assert_eq!(twice, ["1", "2"]);
    for key in ["HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_PROXY", "HTTP_X_REAL_IP"] {
        assert_eq!(environ.get(key), None, "{key}");
    }
    assert!(!reply.text().contains("9.9.9.9"), "{}", reply.text());
}

#[test]
fn what_a_request_does_not_have_is_empty_or_missing() {
    let server = validated("--cores 2");
    let reply = ask(&server, "GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let environ = environ(reply.text());
    assert_eq!(environ["QUERY_STRING"], "''");
    for key in ["CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_COOKIE"] {
        assert!(matches!(environ.get(key), None | Some(&"''")), "{key}");
    }
    // Nothing of the request before is left in the instance that has served it.
    let mut connection = Connection::open(server.address);
    for (field, expected) in [("X-Mine: 1\r\n", Some(&"'1'")), ("", None)] {
        connection.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n"));
        let reply = connection.reply();
        assert_eq!(self::environ(reply.text()).get("HTTP_X_MINE"), expected);
    }
}

#[test]
fn a_client_of_a_unix_socket_has_no_address() {
    let folder = Folder::new();
    let path = folder.join("socket");
    let address = format!("unix:{}", path.display());
    let _server = validated(&format!("--cores 2 --http-socket {address}"));
    let mut connection = Connection::over(UnixStream::connect(&path).unwrap());
    let reply = connection.get("/");
    assert_eq!(reply.status, 200);
    assert_eq!(environ(reply.text())["REMOTE_ADDR"], "''");
}

#[test]
fn each_path_is_decoded_once_and_each_query_is_left_as_it_is() {
    let server = validated("--cores 2");
    let rows = [
        ("/", "'/'", "''"),
        ("/?", "'/'", "''"),
        ("/a?b?c", "'/a'", "'b?c'"),
        ("/%2525", "'/%25'", "''"),
        ("/a+b?a+b", "'/a+b'", "'a+b'"),
        ("//double//", "'//double//'", "''"),
        ("/a%3Fb", "'/a?b'", "''"),
        ("/%ff%0a", "'/ÿ\\n'", "''"),
        ("/%zz%4", "'/%zz%4'", "''"),
        ("/;p=1?%C3%A9", "'/;p=1'", "'%C3%A9'"),
        ("http://other.example/absolute?q", "'/absolute'", "'q'"),
    ];
    for (target, path, query) in rows {
        let reply = ask(&server, &format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(reply.status, 200, "{target}");
        let environ = environ(reply.text());
        assert_eq!((environ["PATH_INFO"], environ["QUERY_STRING"]), (path, query), "{target}");
    }
}

#[test]
fn what_is_asked_of_the_whole_server_has_no_path_and_an_empty_one_is_the_root() {
    let server = validated("--cores 2");
    for (target, path, uri) in [
        ("*", "''", "'*'"),
        ("http://h?x=1", "'/'", "'/?x=1'"),
        ("http://h", "'/'", "'/'"),
        ("/*", "'/*'", "'/*'"),
    ] {
        let reply = ask(&server, &format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(reply.status, 200, "{target}");
        let environ = environ(reply.text());
        assert_eq!((environ["PATH_INFO"], environ["REQUEST_URI"]), (path, uri), "{target}");
    }
    let log = server.stop().log;
    assert!(!log.contains("Assertion"), "{log}");
}

#[test]
fn the_scheme_is_that_of_the_client_of_a_trusted_proxy() {
    let asked = |options: &str| {
        let server = validated(options);
        let reply = ask(&server, "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n\r\n");
        assert_eq!(reply.status, 200);
        let environ = environ(reply.text());
        ["wsgi.url_scheme", "HTTPS", "HTTP_X_FORWARDED_PROTO"]
            .map(|key| environ.get(key).map(|value| value.to_string()))
    };
    assert_eq!(asked("--cores 2"), [Some("'http'".to_owned()), None, None]);
    let told = ["'https'", "'on'", "'https'"].map(|value| Some(value.to_owned()));
    assert_eq!(asked("--cores 2 --trusted-proxy 127.0.0.0/8"), told);
}

#[test]
fn fields_about_the_connection_go_neither_in_nor_out() {
    let server = faults("--cores 2 --threads 1");
    let mut connection = Connection::open(server.address);
    connection.send(
        "POST /environ-keys HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: TE\r\nTE: trailers\r\n\
        Trailer: x-sum\r\nKeep-Alive: 1\r\nUpgrade: x\r\nX-Mine: 1\r\n\r\n0\r\n\r\n",
    );
    let reply = connection.reply();
    let fields: Vec<&str> = reply.text().split(' ').filter(|key| key.starts_with("HTTP_")).collect();
    assert_eq!(fields, ["HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_MINE"]);
    for _ in 0..2 {
        let reply = connection.get("/connection-fields");
        assert_eq!((reply.field("x-mine"), reply.text()), (Some("1"), "Hello World"));
        for name in ["connection", "keep-alive", "transfer-encoding"] {
            assert_eq!(reply.field(name), None);
        }
    }
    let log = server.stop().log;
    for name in ["connection", "keep-alive", "transfer-encoding"] {
        assert_eq!(log.matches(&format!("sets the field `{name}`")).count(), 1, "{log}");
    }
}

#[test]
fn a_status_that_no_response_has_is_an_error() {
    let server = faults("--cores 2");
    for path in ["/status", "/status-in-pieces"] {
        for (code, expected) in
            [(100, 500), (101, 500), (103, 500), (600, 500), (999, 500), (204, 204), (599, 599)]
        {
            assert_eq!(server.get(&format!("{path}/{code}")).status, expected, "{path} {code}");
        }
    }
}

#[test]
fn each_method_has_its_name() {
    let server = faults("--cores 2");
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE"] {
        let request = format!(
            "{method} /environ-key/REQUEST_METHOD HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(ask(&server, &request).text(), format!("'{method}'"));
    }
}

#[test]
fn the_protocol_is_that_of_the_client() {
    let server = faults("--cores 2");
    for protocol in ["HTTP/1.0", "HTTP/1.1"] {
        let request = format!("GET /environ-key/SERVER_PROTOCOL {protocol}\r\nHost: test\r\n\r\n");
        assert_eq!(ask(&server, &request).text(), format!("'{protocol}'"));
    }
}

#[test]
fn every_route_is_silent_under_the_validator() {
    let server = validated("--cores 1 --max-requests 0");
    let source = std::fs::read_to_string(file("applications/validated.py")).unwrap();
    let (_, routes) = source.split_once("PATHS = {").expect("a table of routes");
    let routes: Vec<&str> =
        routes.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).collect();
    assert!(routes.len() > 10, "{routes:?}");
    for path in routes {
        ask(&server, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        ask(&server, &format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\na\nb\n"));
        ask(
            &server,
            &format!(
                "POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
            ),
        );
        let mut connection = Connection::open(server.address);
        connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        connection.head().unwrap();
    }
    let log = server.stop().log;
    for word in ["Assertion", "Warning", "garbage collected", "ignored in"] {
        assert!(!log.contains(word), "{word} in {log}");
    }
}

#[test]
fn written_bytes_come_before_those_of_the_iterable() {
    let server = validated("--cores 2");
    let reply = ask(&server, "POST /written HTTP/1.1\r\nHost: test\r\nContent-Length: 7\r\n\r\nsecond ");
    assert_eq!((reply.status, reply.text(), reply.complete), (200, "first second third fourth", true));
}

#[test]
fn exc_info_replaces_the_head_before_it_left_and_raises_after() {
    let server = validated("--cores 2");
    let reply = server.get("/replaced");
    assert_eq!((reply.status, reply.text(), reply.complete), (503, "replaced", true));
    assert_eq!(reply.fields.iter().filter(|(name, _)| name == "content-type").count(), 1);
    assert_eq!(reply.field("content-type"), Some("text/plain"));
    let reply = server.get("/raised-again");
    assert_eq!((reply.status, reply.complete), (200, false));
    assert!(!reply.text().contains("never"));
    server.wait_for_line("KeyError: 'after the head'");
}

#[test]
fn a_file_is_sent_by_its_wrapper_and_closed() {
    let server = validated("--cores 2");
    let numbers = std::fs::read(root().join("guests/rust/numbers/numbers.txt")).unwrap();
    let reply = server.get("/file");
    assert!(reply.complete);
    assert_eq!(reply.body, numbers);
    server.wait_for_line("closed the file");
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    let server = validated("--cores 2");
    let mut connection = Connection::open(server.address);
    for path in ["/large", "/cookies", "/written", "/line-by-line", "/file", "/nothing"] {
        connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let of_head = connection.head().unwrap();
        // A body would be taken for the head of this response.
        let of_get = connection.get(path);
        assert_eq!(of_head.status, of_get.status, "{path}");
        assert_eq!(of_head.field("content-type"), of_get.field("content-type"), "{path}");
        assert_eq!(of_head.field("set-cookie"), of_get.field("set-cookie"), "{path}");
        // The length may be left out, but not be another one (RFC 9110, 8.6).
        if let Some(length) = of_head.field("content-length") {
            assert_eq!(Some(length), of_get.field("content-length"), "{path}");
        }
    }
    connection.send("HEAD /large HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(connection.head().unwrap().field("content-length"), Some("20971520"));
}

#[test]
fn no_content_has_no_body_and_the_connection_goes_on() {
    let server = validated("--cores 2");
    let mut connection = Connection::open(server.address);
    for _ in 0..3 {
        let reply = connection.get("/nothing");
        assert_eq!(reply.status, 204);
        assert_eq!((reply.field("content-length"), reply.field("transfer-encoding")), (None, None));
    }
    assert_eq!(connection.get("/cookies").status, 200);
}

#[test]
fn fields_that_repeat_stay_apart() {
    let server = validated("--cores 2");
    let reply = ask(&server, "GET /cookies HTTP/1.1\r\nHost: test\r\nCookie: a=1; b=2\r\n\r\n");
    assert_eq!(reply.text(), "a=1; b=2");
    let cookies: Vec<&str> = reply
        .fields
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[test]
fn request_bodies_come_whole_with_a_length_or_in_chunks() {
    let server = validated("--cores 2");
    let body: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2654435761) >> 13) as u8).collect();
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.post("/counted", &body).text(), body.len().to_string());
    assert!(connection.post("/echo", &body[..1 << 20]).body == body[..1 << 20], "the echo differs");
    assert_eq!(connection.post("/counted", b"").text(), "0");
    connection.send("POST /counted HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(100_000) {
        connection.send(format!("{:x}\r\n", chunk.len()));
        connection.send(chunk);
        connection.send("\r\n");
    }
    connection.send("0\r\n\r\n");
    assert_eq!(connection.reply().text(), body.len().to_string());
    // The connection is at the next request, and nothing of the body is left.
    assert_eq!(connection.post("/counted", b"abc").text(), "3");
}

#[test]
fn the_body_can_be_read_by_lines_and_by_sizes() {
    let server = validated("--cores 2");
    let mut connection = Connection::open(server.address);
    assert_eq!(
        connection.post("/lines", b"one\ntwo\nthree\nfour").text(),
        "b'one\\n'\n[b'two\\n']\n[b'three\\n', b'four']\nb''"
    );
    let long = [vec![b'x'; 200_000], b"\n".to_vec()].concat();
    assert!(connection.post("/line-by-line", &long.repeat(2)).body == long.repeat(2));
    let server = faults("--cores 2");
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.post("/by-lines", b"one\ntwo").text(), "[b'one\\n', b'two']");
    assert_eq!(
        connection.post("/by-sizes", b"12345678\n9\n0").text(),
        "[b'', b'12', b'345', b'678\\n', [b'9\\n', b'0'], b'']"
    );
}

#[test]
fn to_read_more_than_there_is_takes_no_more_memory_than_there_is() {
    let server = faults("--cores 1");
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.post("/by-far-too-much", b"abc").text(), "abc|||");
    let body = vec![b'x'; 1 << 20];
    let reply = connection.post("/by-far-too-much", &body);
    assert_eq!((reply.status, reply.body.len()), (200, (1 << 20) + 3));
    assert_eq!(reply.body.iter().filter(|byte| **byte == b'x').count(), 1 << 20);
}

#[test]
fn pieces_of_a_class_that_is_made_of_bytes_leave_as_the_bytes_that_they_are() {
    let server = faults("--cores 1");
    for path in ["/subclass-body", "/subclass-in-pieces"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.text(), reply.complete), (200, "Hello World", true), "{path}");
    }
}

#[test]
fn what_is_wrong_with_a_head_is_said_by_start_response_and_names_the_field() {
    let server = faults("--cores 1");
    let reply = server.get("/wrong-heads");
    assert_eq!(reply.status, 200);
    let lines: Vec<&str> = reply.text().lines().collect();
    assert_eq!(lines.len(), 20, "{lines:#?}");
    let (values, rest) = lines.split_at(8);
    let (names, statuses) = rest.split_at(6);
    for line in values {
        assert!(line.contains("Error: the value of the header field 'X-Named' "), "{line}");
    }
    assert_eq!(values.iter().filter(|line| line.starts_with("TypeError: ")).count(), 3);
    for line in names {
        assert!(line.starts_with("ValueError: not the name of a header field: "), "{line}");
    }
    for line in statuses {
        assert!(line.starts_with("ValueError: not a status: "), "{line}");
    }
    assert_eq!(reply.field("x-tab"), Some("a\tb"));
    assert_eq!(reply.field("x-empty"), Some(""));
    assert_eq!(reply.field("x-named"), None);
}

#[test]
fn a_body_that_is_not_read_does_not_disturb_the_next_request() {
    let server = faults("--cores 1");
    for size in [10, 300_000] {
        assert_eq!(Connection::open(server.address).post("/hello", &vec![b'x'; size]).text(), "Hello World");
        assert_eq!(Connection::open(server.address).post("/by-lines", b"mine").text(), "[b'mine']");
    }
}

#[test]
fn a_body_of_another_request_cannot_be_read_any_more() {
    let server = faults("--cores 1");
    // Each on a connection of its own: one whose body was not read may be closed.
    let post = |path: &str, body: &[u8]| Connection::open(server.address).post(path, body);
    assert_eq!(post("/keep-input", b"secret").text(), "kept");
    let reply = post("/read-kept-input", b"other");
    assert_eq!(reply.status, 500);
    server.wait_for_line("ValueError: ");
}

#[test]
fn a_body_that_breaks_a_limit_is_the_clients_failure_and_not_the_applications() {
    let server = faults("--cores 1 --body-limit 1000 --body-timeout 0.5");
    let chunked =
        |path: &str| format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (body, status) in
        [(format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)), 413), ("5\r\nsl".to_owned(), 408)]
    {
        let mut connection = Connection::open(server.address);
        connection.send(chunked("/by-lines"));
        connection.send(body);
        assert_eq!(connection.reply().status, status);
        assert_eq!(server.get("/hello").status, 200);
    }
    let log = server.stop().log;
    assert!(!log.contains("Traceback"), "{log}");
}

#[test]
fn a_piece_leaves_while_the_application_waits_for_the_next() {
    let server = validated("--cores 1");
    let mut connection = Connection::open(server.address);
    // Of one in chunks, the adapter would wait for the length.
    connection.send("POST /line-by-line HTTP/1.1\r\nHost: test\r\nContent-Length: 13\r\n\r\nfirst\n");
    assert_eq!(connection.head().unwrap().status, 200);
    let mut body = Vec::new();
    assert!(connection.chunk(&mut body).unwrap());
    assert_eq!(body, b"first\n");
    connection.send("second\n");
    while connection.chunk(&mut body).unwrap() {}
    assert_eq!(body, b"first\nsecond\n");
    server.wait_for_line("closed line by line");
}

#[test]
fn requests_that_wait_hold_up_no_other() {
    // More than there are threads.
    let server = validated("--cores 10 --threads 2");
    let waiting: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = Connection::open(server.address);
            connection.send("POST /line-by-line HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nfirst\n");
            assert_eq!(connection.head().unwrap().status, 200);
            connection
        })
        .collect();
    assert_eq!(server.figure("/cores/busy"), 8);
    assert_eq!(server.get("/cookies").status, 200);
    for mut connection in waiting {
        connection.send("end\n");
        let mut body = Vec::new();
        while connection.chunk(&mut body).unwrap() {}
        assert_eq!(body, b"first\nend\n");
    }
}

#[test]
fn a_client_that_leaves_in_a_download_frees_its_core() {
    let server = validated("--cores 1");
    for _ in 0..3 {
        let mut connection = Connection::open(server.address);
        connection.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(connection.head().unwrap().status, 200);
        drop(connection);
        assert_eq!(server.get("/cookies").status, 200);
    }
    server.wait_for_figure("/requests/cancelled", 3);
}

#[test]
fn iterables_are_closed_when_the_client_leaves() {
    let server = validated("--cores 1");
    // One that is sending, and one that waits for the client's next line.
    let head = "POST /line-by-line HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nfirst\n";
    let rows = [("GET /large HTTP/1.1\r\nHost: test\r\n\r\n", "closed large"), (head, "closed line by line")];
    for (request, line) in rows {
        let mut connection = Connection::open(server.address);
        connection.send(request);
        assert_eq!(connection.head().unwrap().status, 200);
        leave(connection);
        server.wait_for_line(line);
    }
    // What it has closed in time serves on.
    assert_eq!(server.get("/cookies").status, 200);
    // The guest may see the end of the request's body before the server sees that of the client.
    let over = || server.figure("/requests/cancelled") + server.figure("/requests/broken");
    wait_for("both requests to be over", || (over() == 2).then_some(()));
    assert_eq!(server.figure("/instances_created"), 1);
    let log = server.stop().log;
    assert!(!log.contains("Traceback"), "{log}");
}

#[test]
fn an_iterable_that_does_not_learn_in_time_that_the_client_left_is_ended() {
    let server = faults("--cores 1 --close-timeout 0.2");
    for path in ["/sleeps-in-body", "/spins-in-body"] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(connection.head().unwrap().status, 200, "{path}");
        leave(connection);
        // The only core is free again.
        assert_eq!(server.get("/hello").text(), "Hello World", "{path}");
    }
    assert_eq!(server.figure("/instances_created"), 3);
    assert!(!server.stop().log.contains("closed"));
}

/// The server learns of it at once, as it would from a client that ended in the middle.
fn leave(connection: Connection) {
    let socket = socket2::SockRef::from(&connection.socket);
    socket.set_linger(Some(std::time::Duration::ZERO)).expect("TCP");
}

#[test]
fn written_bytes_leave_before_the_application_returns() {
    let server = validated("--cores 1");
    let mut connection = Connection::open(server.address);
    connection.send("POST /written HTTP/1.1\r\nHost: test\r\nContent-Length: 7\r\n\r\n");
    assert_eq!(connection.head().unwrap().status, 200);
    let mut body = Vec::new();
    assert!(connection.chunk(&mut body).unwrap());
    assert_eq!(body, b"first ");
    connection.send("second ");
    while connection.chunk(&mut body).unwrap() {}
    assert_eq!(body, b"first second third fourth");
}

#[test]
fn iterables_are_closed_when_they_are_used_up_or_fail() {
    let server = validated("--cores 2");
    let reply = server.get("/large");
    assert_eq!((reply.body.len(), reply.complete), (20 << 20, true));
    assert!(reply.body.iter().all(|byte| *byte == b'x'));
    server.wait_for_line("closed large");
    assert!(!server.get("/failing-piece").complete);
    server.wait_for_line("closed failing");
    let mut connection = Connection::open(server.address);
    connection.send("HEAD /line-by-line HTTP/1.1\r\nHost: test\r\n\r\n");
    connection.head().unwrap();
    server.wait_for_line("closed line by line");
}

#[test]
fn what_is_written_to_errors_is_in_the_log() {
    let server = validated("--cores 2");
    assert_eq!(server.get("/errors").text(), "logged");
    server.wait_for_line("an error");
    server.wait_for_line("more errors");
}
