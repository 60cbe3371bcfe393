use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::support::client::Connection;
use crate::support::server::{Setup, setup, setup_python};
use crate::support::{Folder, fault_guests, guest, root};

/// Each promise holds for a guest of either version of WASI.
const BOTH: [&str; 2] = ["", "-0.3"];

#[test]
fn plain_guests_of_both_versions_answer() {
    for version in BOTH {
        let server = setup(guest(&format!("hello{version}"))).options("--cores 2").start();
        let reply = server.get("/");
        assert_eq!((reply.status, reply.text(), reply.complete), (200, "Hello World", true));
        assert_eq!(reply.field("content-type"), Some("text/html"));
        assert_eq!(reply.field("content-length"), Some("11"));
        assert!(reply.field("date").is_some());
    }
}

#[test]
fn a_guest_for_0_2_may_have_asynchronous_functions_inside() {
    for options in ["", "--max-requests 0"] {
        let server = setup(fault_guests::component("async-inside")).options(options).start();
        let mut connection = Connection::open(server.address);
        for _ in 0..3 {
            assert_eq!(connection.get("/set").text(), "made and dropped");
            assert_eq!(connection.post("/hello", b"x").text(), "Hello World");
        }
    }
}

#[test]
fn a_guest_reads_a_file_of_the_folder_it_was_given() {
    for version in BOTH {
        let numbers = root().join("guests/rust/numbers");
        let server = setup(guest(&format!("blocking{version}"))).dir(&numbers).start();
        assert_eq!(server.get("/").text(), "Hello World");
        server.wait_for_line("9:10");
        let lines: Vec<String> = server.log().lines().take(10).map(str::to_owned).collect();
        let expected: Vec<String> = (0..10).map(|k| format!("guest: {k}:{}", k + 1)).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn the_writer_of_a_named_pipe_is_not_waited_for() {
    let folder = Folder::new();
    assert!(Command::new("mkfifo").arg(folder.join("numbers.txt")).status().unwrap().success());
    for version in BOTH {
        let server = setup(guest(&format!("blocking{version}"))).dir(&folder.0).start();
        // WASI reads at an offset, which a pipe does not have.
        assert!(server.get("/").text().contains("Invalid seek"));
    }
}

#[test]
fn without_a_folder_no_file_is_visible() {
    let server = setup(guest("blocking")).start();
    assert_eq!(server.get("/").status, 500);
}

#[test]
fn large_bodies_stream_through_both_ways() {
    for version in BOTH {
        let server = setup(guest(&format!("echo{version}"))).start();
        let body: Vec<u8> = (0..20 << 20).map(|n: u32| (n.wrapping_mul(2654435761) >> 13) as u8).collect();
        let mut connection = Connection::open(server.address);
        let mut writer = connection.socket.try_clone().unwrap();
        let to_send = body.clone();
        let sender = std::thread::spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", to_send.len());
            writer.write_all(head.as_bytes()).unwrap();
            writer.write_all(&to_send).unwrap();
        });
        let reply = connection.reply();
        sender.join().unwrap();
        assert!(reply.complete);
        assert!(reply.body == body, "the echo differs");
        // One server never holds such a body: 20 MiB in, 20 MiB out.
        assert_eq!(connection.post("/", b"again").text(), "again");
    }
}

#[test]
fn the_first_bytes_leave_before_the_guest_has_all() {
    for version in BOTH {
        let server = setup(guest(&format!("echo{version}"))).start();
        let mut connection = Connection::open(server.address);
        connection.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200);
        let mut body = Vec::new();
        assert!(connection.chunk(&mut body).unwrap());
        assert_eq!(body, b"first");
        connection.send("6\r\nsecond\r\n0\r\n\r\n");
        while connection.chunk(&mut body).unwrap() {}
        assert_eq!(body, b"firstsecond");
    }
}

#[test]
fn trailers_pass_through() {
    for version in BOTH {
        let server = setup(guest(&format!("echo{version}"))).start();
        let mut connection = Connection::open(server.address);
        connection.send(
            "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\nx-sum: 42\r\n\r\n",
        );
        let reply = connection.reply();
        assert_eq!(reply.text(), "hi");
        assert_eq!(reply.trailers, [("x-sum".to_owned(), "42".to_owned())], "echo{version}");
    }
}

#[test]
fn a_connection_is_kept_and_may_pipeline() {
    let server = setup(guest("hello")).start();
    let mut connection = Connection::open(server.address);
    for _ in 0..3 {
        assert_eq!(connection.get("/").text(), "Hello World");
    }
    connection.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(3));
    for _ in 0..3 {
        assert_eq!(connection.reply().text(), "Hello World");
    }
    assert_eq!(server.figure("/connections/accepted"), 1);
}

#[test]
fn a_body_that_the_guest_does_not_read_is_not_the_next_request() {
    let server = setup(guest("hello")).start();
    let mut connection = Connection::open(server.address);
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    assert_eq!(connection.post("/", smuggled).text(), "Hello World");
    let _ = connection.socket.write_all(b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n");
    // Either the server reads the body away or it closes; both are right.
    if let Ok(reply) = connection.try_reply() {
        assert_eq!(reply.text(), "Hello World");
    }
    assert!(!server.stop().log.contains("/smuggled"));
}

#[test]
fn a_head_request_has_the_head_and_no_body() {
    for version in BOTH {
        let server = setup(guest(&format!("hello{version}"))).options("--cores 1").start();
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            connection.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
            let head = connection.head().unwrap();
            assert_eq!((head.status, head.field("content-length")), (200, Some("11")));
        }
        assert_eq!(connection.get("/").text(), "Hello World");
    }
}

#[test]
fn an_old_client_gets_an_old_connection() {
    let server = setup(guest("hello")).start();
    let mut connection = Connection::open(server.address);
    connection.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(connection.reply().text(), "Hello World");
    assert_eq!(connection.until_closed(), b"");
}

#[test]
fn the_head_of_a_request_must_be_right() {
    let server = setup(guest("hello")).start();
    let rows = [
        ("GET / HTTP/1.1\r\n\r\n", "no Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "two of them"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "an empty one"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "one with a user"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "an asterisk"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "two lengths"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "no number"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "a space before the colon"),
    ];
    for (request, what) in rows {
        let mut connection = Connection::open(server.address);
        connection.send(request);
        assert_eq!(connection.reply().status, 400, "{what}");
        assert_eq!(connection.until_closed(), b"", "{what}");
    }
    assert_eq!(server.figure("/instances_created"), 0);
}

#[test]
fn a_unix_socket_serves_and_is_removed() {
    let folder = Folder::new();
    let path = folder.join("http.sock");
    let options = format!("--http-socket unix:{}", path.display());
    // A later option wins over the port that every test asks for.
    let server = setup(guest("hello")).options(&options).start();
    let socket = UnixStream::connect(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(Connection::over(socket).get("/").text(), "Hello World");
    assert!(server.stop().status.success());
    assert!(!path.exists());
}

#[test]
fn the_client_is_told_in_one_header_and_cannot_lie() {
    // The line of the log has the address that the guest was told.
    let logged = |options: &str, own: &str| {
        let server = setup(guest("hello")).options(options).start();
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET /asked HTTP/1.1\r\nHost: test\r\n{own}\r\n"));
        assert_eq!(connection.reply().status, 200);
        server.wait_for_line("/asked").split(' ').next().unwrap().to_owned()
    };
    assert_eq!(logged("", ""), "127.0.0.1");
    assert_eq!(logged("", "X-Forwarded-For: 192.0.2.1\r\n"), "127.0.0.1");
    assert_eq!(logged("--trusted-proxy 127.0.0.1", "X-Forwarded-For: 192.0.2.1\r\n"), "192.0.2.1");
    assert_eq!(logged("--trusted-proxy 127.0.0.1", ""), "127.0.0.1");
}

/// What guests of both versions are told: the scheme, by `--trusted-proxy` and these fields.
#[test]
fn the_scheme_is_that_of_the_client_of_a_trusted_proxy() {
    let rows = [
        ("", "http"),
        ("X-Forwarded-Proto: https\r\n", "https"),
        ("X-Forwarded-Proto: http\r\n", "http"),
        ("X-Forwarded-Proto: https, http\r\n", "http"),
        ("Forwarded: for=192.0.2.1;proto=https\r\n", "https"),
        // One of the client's own, which a proxy that writes the other field leaves.
        ("X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.9;proto=https\r\n", "http"),
    ];
    for version in BOTH {
        for (options, is_trusted) in
            [("", false), ("--trusted-proxy 127.0.0.0/8", true), ("--trusted-proxy 10.0.0.0/8", false)]
        {
            let server = setup(fault_guests::component(&format!("faults{version}"))).options(options).start();
            let mut connection = Connection::open(server.address);
            for (fields, scheme) in rows {
                connection.send(format!("GET /scheme HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
                let expected = if is_trusted { scheme } else { "http" };
                assert_eq!(connection.reply().text(), expected, "{version} {options} {fields}");
            }
        }
    }
}

#[test]
fn a_unix_socket_has_the_permissions_that_are_asked_for() {
    let folder = Folder::new();
    let path = folder.join("socket");
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (option, expected) in
        [("--chmod-socket", 0o666), ("--chmod-socket=660", 0o660), ("--chmod-socket 600", 0o600)]
    {
        let address = format!("unix:{}", path.display());
        let server = setup(guest("hello")).options(&format!("--http-socket {address} {option}")).start();
        assert_eq!(mode(&path), expected, "{option}");
        let socket = UnixStream::connect(&path).unwrap();
        assert_eq!(Connection::over(socket).get("/").text(), "Hello World");
        assert!(server.stop().status.success());
    }
    for (options, reason) in [
        ("--chmod-socket=888", "three octal digits"),
        ("--chmod-socket=1777", "three octal digits"),
        ("--chmod-socket=660", "--chmod-socket is for --http-socket unix:PATH"),
        ("--trusted-proxy 10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("--trusted-proxy 10.0.0.0/33", "a network such as 10.0.0.0/8"),
    ] {
        let refused = crate::support::server::program()
            .arg("--guest")
            .arg(guest("hello"))
            .args(options.split(' '))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(64), "{options}: {said}");
        assert!(said.contains(reason), "{options}: {said}");
    }
}

/// A program that answers with this status, and a length and a body.
fn says(folder: &Folder, status: u16) -> std::path::PathBuf {
    let answer = format!("Status: {status} x\nContent-Length: 4\n\nbody");
    let (length, answer) = (answer.len(), answer.replace('\n', "\\n"));
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "{answer}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 100))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    );
    let file = folder.join("says.wasm");
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    file
}

/// HTTP/2 with prior knowledge, on the port of HTTP/1.
mod http2 {
    use super::*;
    use bytes::Bytes;
    use h2::client::SendRequest;

    async fn connect(address: std::net::SocketAddr) -> SendRequest<Bytes> {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }

    /// What came of a response, and how its stream broke, if it did.
    async fn get(client: &mut SendRequest<Bytes>, path: &str) -> (u16, Vec<u8>, Option<h2::Error>) {
        let request = http::Request::get(format!("http://test{path}")).body(()).unwrap();
        let (reply, _) = client.send_request(request, true).unwrap();
        let reply = reply.await.unwrap();
        let status = reply.status().as_u16();
        let (mut body, mut bytes) = (reply.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(error) => return (status, bytes, Some(error)),
            }
        }
        (status, bytes, None)
    }

    /// Guests that break something, one for each way to serve.
    fn faulty() -> Vec<(&'static str, Setup)> {
        let mut all: Vec<_> = ["faults", "faults-0.3", "program", "program-0.2"]
            .map(|name| (name, setup(fault_guests::component(name))))
            .into();
        all.push(("python", setup_python(root().join("tests/fixtures/faults.py"))));
        all
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_promised_or_its_stream_is_reset() {
        for (name, setup) in faulty() {
            let (whole, wrong) = match name {
                "program" | "program-0.2" => ("/sized", [("/short", 9), ("/long", 3)]),
                _ => ("/hello", [("/short-body", 100), ("/long-body", 5)]),
            };
            let server = setup.start();
            let mut client = connect(server.address).await;
            for (path, length) in wrong {
                let (status, bytes, error) = get(&mut client, path).await;
                if name == "python" && path == "/long-body" {
                    // By PEP 3333, what is beyond the length is left out.
                    assert_eq!((status, bytes.as_slice()), (200, &b"Hello"[..]));
                    assert!(error.is_none(), "{error:?}");
                } else if name != "python" || status != 500 {
                    // The client's own library would also refuse a body that is too short.
                    let is_reset = error.is_some_and(|error| error.is_reset() && error.is_remote());
                    assert!(is_reset && bytes.len() <= length, "{name} {path}: {bytes:?}");
                }
                let (status, _, error) = get(&mut client, whole).await;
                assert!(status == 200 && error.is_none(), "{name} {path}");
            }
            assert_eq!(server.figure("/connections/accepted"), 1, "{name}");
        }
    }

    #[tokio::test]
    async fn a_status_that_no_response_can_have_is_an_error() {
        for (name, setup) in faulty() {
            let rows: &[(&str, u16)] = match name {
                "program" | "program-0.2" => &[("/status-103", 500), ("/status-999", 500), ("/teapot", 418)],
                _ => &[
                    ("/status/100", 500),
                    ("/status/101", 500),
                    ("/status/103", 500),
                    ("/status/199", 500),
                    // By `wasi:http` 0.3, the guest is told, and says 400.
                    ("/status/600", if name == "faults-0.3" { 400 } else { 500 }),
                    ("/status/999", if name == "faults-0.3" { 400 } else { 500 }),
                    ("/status/204", 204),
                    ("/status/304", 304),
                    ("/status/599", 599),
                ],
            };
            let server = setup.start();
            let mut client = connect(server.address).await;
            for (path, expected) in rows {
                let (status, _, error) = get(&mut client, path).await;
                assert_eq!(status, *expected, "{name} {path}");
                assert!(error.is_none(), "{name} {path}: {error:?}");
            }
            assert_eq!(server.figure("/connections/accepted"), 1, "{name}");
        }
    }

    #[tokio::test]
    async fn requests_share_a_connection() {
        for version in BOTH {
            let server = setup(guest(&format!("echo{version}"))).options("--cores 4").start();
            let mut client = connect(server.address).await;
            let mut replies = Vec::new();
            for number in 0..20 {
                let request = http::Request::post(format!("http://test/{number}")).body(()).unwrap();
                let (reply, mut body) = client.send_request(request, false).unwrap();
                body.send_data(Bytes::from(format!("body {number}")), true).unwrap();
                replies.push(reply);
            }
            for (number, reply) in replies.into_iter().enumerate() {
                let reply = reply.await.unwrap();
                assert_eq!(reply.status(), 200);
                let mut body = reply.into_body();
                let mut bytes = Vec::new();
                while let Some(data) = body.data().await {
                    bytes.extend_from_slice(&data.unwrap());
                }
                assert_eq!(bytes, format!("body {number}").as_bytes());
            }
            assert_eq!(server.figure("/connections/accepted"), 1);
        }
    }

    #[tokio::test]
    async fn a_status_without_a_body_has_neither_body_nor_length() {
        for status in [204, 205, 304] {
            let folder = Folder::new();
            let server = setup(says(&folder, status)).start();
            let mut connection = Connection::open(server.address);
            for _ in 0..2 {
                connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                let head = connection.head().unwrap();
                // Without a length, a client would wait for the end of a 205 (RFC 9112, 6.3).
                let length = (status == 205).then_some("0");
                assert_eq!((head.status, head.field("content-length")), (status, length));
            }
            let mut client = connect(server.address).await;
            for _ in 0..2 {
                let request = http::Request::get("http://test/").body(()).unwrap();
                let (reply, _) = client.send_request(request, true).unwrap();
                let reply = reply.await.unwrap();
                assert_eq!(reply.status().as_u16(), status);
                assert_eq!(reply.headers().get("content-length"), None, "{status}");
                assert!(reply.into_body().data().await.is_none(), "{status}");
            }
        }
    }

    #[tokio::test]
    async fn fields_are_counted_and_a_split_cookie_is_one() {
        let server = setup(guest("hello")).start();
        let mut client = connect(server.address).await;
        for (name, count, status) in [("x", 100, 200), ("x", 101, 431), ("cookie", 150, 200)] {
            let mut request = http::Request::get("http://test/").body(()).unwrap();
            for number in 0..count {
                let name = if name == "x" { format!("x-{number}") } else { name.to_owned() };
                let name = http::HeaderName::try_from(name).unwrap();
                request.headers_mut().append(name, "a=b".parse().unwrap());
            }
            let (reply, _) = client.send_request(request, true).unwrap();
            assert_eq!(reply.await.unwrap().status(), status, "{count} times {name}");
        }
        assert_eq!(server.figure("/requests/failures/head_too_large"), 1);
    }

    #[tokio::test]
    async fn a_failure_behind_the_response_leaves_it_whole() {
        for (guest, path, text) in [
            ("faults", "/trap-after-chunked-response", "Hello World"),
            ("faults", "/trap-after-sized-body", "partial"),
            ("faults-0.3", "/trap-after-sized-body", "Hello World"),
            ("faults-0.3", "/trap-before-trailers", "Hello World"),
            ("faults-0.3", "/trap-before-trailers-of-nothing", ""),
            ("faults-0.3", "/wait-before-trailers", "Hello World"),
            ("program", "/whole-exit", "half"),
            ("program-0.2", "/whole-exit", "half"),
        ] {
            let server = setup(fault_guests::component(guest)).options("--harakiri 2").start();
            let mut client = connect(server.address).await;
            let (status, bytes, error) = get(&mut client, path).await;
            assert!(status == 200 && error.is_none(), "{guest} {path}: {status} {error:?}");
            assert_eq!(bytes, text.as_bytes(), "{guest} {path}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_resets_its_stream_only() {
        for (guest, broken, whole) in [
            ("faults", "/trap-in-body/300", "/hello"),
            ("faults-0.3", "/trap-in-body/300", "/hello"),
            ("faults-0.3", "/wait-in-body", "/hello"),
            ("program", "/half", "/sized"),
            ("program-0.2", "/half", "/sized"),
        ] {
            let server = setup(fault_guests::component(guest)).options("--harakiri 2").start();
            let mut client = connect(server.address).await;
            let (_, _, error) = get(&mut client, broken).await;
            // The client's own library would also refuse a body that is too short.
            assert!(error.is_some_and(|error| error.is_reset() && error.is_remote()), "{guest}: not reset");
            assert_eq!(get(&mut client, whole).await.0, 200);
        }
    }
}

#[test]
fn silent_connections_do_not_disturb_others() {
    let server = setup(guest("hello")).options("--idle-timeout 1 --head-timeout 1").start();
    let silent = Connection::open(server.address);
    let mut half = Connection::open(server.address);
    half.send("PRI * HTT");
    let mut slow = Connection::open(server.address);
    slow.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(server.get("/").text(), "Hello World");
    for connection in [silent, half, slow] {
        connection.until_closed();
    }
    let mut idle = Connection::open(server.address);
    assert_eq!(idle.get("/").text(), "Hello World");
    let mut rest = Vec::new();
    let _ = idle.socket.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}
