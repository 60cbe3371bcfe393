use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use crate::support::client::Connection;
use crate::support::server::{Server, setup};
use crate::support::{fault_guests, scripts, wait_for};

/// As a core module, and as a component.
const KINDS: [&str; 2] = ["program", "program-0.2"];

fn program(kind: &str, options: &str) -> Server {
    setup(fault_guests::component(kind)).options(options).start()
}

/// The variables that a program has; each is there once.
fn environment(server: &Server, head: &str) -> BTreeMap<String, String> {
    let mut connection = Connection::open(server.address);
    connection.send(head);
    let reply = connection.reply();
    assert_eq!(reply.status, 200);
    let mut variables = BTreeMap::new();
    for pair in reply.text().trim_end_matches('\0').split('\0') {
        let (name, value) = pair.split_once('=').expect("a variable has a value");
        let other = variables.insert(name.to_owned(), value.to_owned());
        assert_eq!(other, None, "{name} is there twice");
    }
    variables
}

#[test]
fn a_request_is_in_the_environment() {
    for kind in KINDS {
        let server = program(kind, "--cores 2 --env COLOUR=blue --env PATH_INFO=/wrong");
        let found = environment(
            &server,
            "GET /env?a=b%20c HTTP/1.1\r\nHost: example.org\r\nProxy: http://evil\r\nX-Colour: red\r\nCookie: a=1\r\n\r\n",
        );
        let port = server.address.port().to_string();
        for (name, value) in [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", ""),
            ("QUERY_STRING", "a=b%20c"),
            ("REQUEST_URI", "/env?a=b%20c"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", "127.0.0.1"),
            ("SERVER_PORT", &port),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("HTTP_HOST", "example.org"),
            ("HTTP_X_COLOUR", "red"),
            ("HTTP_COOKIE", "a=1"),
            ("COLOUR", "blue"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{kind}: {name}");
        }
        assert!(!found.contains_key("HTTP_PROXY"), "{kind}");
        assert!(!found.contains_key("WASM_SERVE_DEFERRED"), "{kind}");
        assert!(found["SERVER_SOFTWARE"].starts_with("wasm-serve/"));
        assert_eq!(server.get("/a%00b").status, 400, "{kind}");
    }
}

#[test]
fn what_is_a_requests_own_never_comes_from_an_option() {
    let names = ["PATH_INFO", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_COOKIE", "HTTP_PROXY", "HTTP_HOST"]
        .into_iter()
        .chain(["REMOTE_ADDR", "REMOTE_USER", "AUTH_TYPE", "SERVER_NAME", "HTTPS", "WASM_SERVE_DEFERRED"]);
    let options: String = names.map(|name| format!(" --env {name}=forged")).collect();
    for kind in KINDS {
        let server = program(kind, &format!("--cores 2 --env TWICE=1 --env TWICE=2 {options}"));
        let found = environment(&server, "GET /env HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(found.values().all(|value| value != "forged"), "{kind}: {found:?}");
        for (name, value) in
            [("PATH_INFO", "/env"), ("HTTP_HOST", "h"), ("REMOTE_ADDR", "127.0.0.1"), ("TWICE", "2")]
        {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{kind}: {name}");
        }
        for name in ["CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_COOKIE", "HTTP_PROXY", "REMOTE_USER", "HTTPS"] {
            assert_eq!(found.get(name), None, "{kind}: {name}");
        }
        let found = environment(
            &server,
            "POST /env HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nCookie: a=1\r\n\r\nx",
        );
        assert_eq!((&*found["CONTENT_LENGTH"], &*found["HTTP_COOKIE"]), ("1", "a=1"), "{kind}");
        server.wait_for_line(
            "--env HTTP_PROXY: is not given to this program, which has it from requests alone",
        );
    }
}

#[test]
fn a_body_goes_in_and_out_in_any_form() {
    for kind in KINDS {
        let server = program(kind, "--cores 2");
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut connection = Connection::open(server.address);
        let reply = connection.post("/echo", &body);
        assert!(reply.complete && reply.body == body, "{kind}");
        connection.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
        assert_eq!(connection.reply().text(), "abcde", "{kind}");
        assert_eq!(connection.post("/echo", b"").body, b"", "{kind}");
        let reply = connection.get("/big");
        assert_eq!((reply.body.len(), reply.complete), (32 << 20, true), "{kind}");
    }
}

#[test]
fn a_head_says_status_and_fields() {
    for kind in KINDS {
        let server = program(kind, "--cores 2");
        let reply = server.get("/teapot");
        assert_eq!((reply.status, reply.field("x-tea"), reply.text()), (418, Some("green"), ""), "{kind}");
        let reply = server.get("/redirect");
        assert_eq!((reply.status, reply.field("location")), (302, Some("/elsewhere")), "{kind}");
        let reply = server.get("/sized");
        assert_eq!((reply.status, reply.field("content-length"), reply.text()), (200, Some("4"), "half"));
        let reply = server.get("/zero");
        assert_eq!((reply.text(), reply.complete), ("half", true), "{kind}: ends with 0");
        let mut connection = Connection::open(server.address);
        connection
            .send("HEAD /sized HTTP/1.1\r\nHost: test\r\n\r\nGET /sized HTTP/1.1\r\nHost: test\r\n\r\n");
        let head = connection.head().unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("4")), "{kind}");
        assert_eq!(connection.reply().text(), "half", "{kind}");
    }
}

#[test]
fn a_body_of_another_length_than_announced_never_passes_as_whole() {
    for kind in KINDS {
        let server = program(kind, "--cores 2");
        for (path, length) in [("/short", 9), ("/long", 3)] {
            let mut connection = Connection::open(server.address);
            // The second response would be taken for the rest of the first.
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").repeat(2));
            let reply = connection.reply();
            assert!(!reply.complete && b"half".starts_with(&reply.body), "{kind} {path}: {reply:?}");
            assert!(reply.body.len() <= length, "{kind} {path}: {reply:?}");
            assert_eq!(connection.until_closed(), b"", "{kind} {path}");
        }
        server.wait_for_figure("/requests/broken", 2);
    }
}

#[test]
fn a_status_that_no_response_has_is_a_failure() {
    for kind in KINDS {
        let server = program(kind, "--cores 2");
        let mut connection = Connection::open(server.address);
        for path in ["/status-103", "/status-999"] {
            assert_eq!(connection.get(path).status, 500, "{kind} {path}");
        }
        server.wait_for_figure("/requests/failures/guest_error", 2);
        assert_eq!(server.stop().log.matches("is not the status of a response").count(), 2, "{kind}");
    }
}

#[test]
fn fields_about_the_connection_go_neither_in_nor_out() {
    for kind in KINDS {
        let server = program(kind, "--cores 2 --threads 1");
        let found = environment(
            &server,
            "POST /env HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: TE\r\nTE: trailers\r\n\
            Trailer: x-sum\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nUpgrade: x\r\nX-Mine: 1\r\n\r\n0\r\n\r\n",
        );
        let fields: Vec<&String> = found.keys().filter(|name| name.starts_with("HTTP_")).collect();
        assert_eq!(fields, ["HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_MINE"], "{kind}");
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            let reply = connection.get("/connection");
            assert_eq!((reply.field("x-mine"), reply.text()), (Some("1"), "half"), "{kind}");
            for name in ["connection", "keep-alive", "te"] {
                assert_eq!(reply.field(name), None, "{kind}");
            }
        }
        let log = server.stop().log;
        for name in ["connection", "keep-alive", "te"] {
            assert_eq!(log.matches(&format!("sets the field `{name}`")).count(), 1, "{kind}: {log}");
        }
    }
}

#[test]
fn a_path_begins_with_a_slash_or_is_empty_and_a_scheme_is_the_clients() {
    for kind in KINDS {
        let server = program(kind, "--cores 2 --trusted-proxy 127.0.0.1");
        for (target, path) in [("http://h?env", "/"), ("http://h/a?env", "/a"), ("/?env", "/")] {
            let found = environment(&server, &format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!(found["PATH_INFO"], path, "{kind} {target}");
            assert_eq!(found["QUERY_STRING"], "env", "{kind} {target}");
            assert_eq!(found.get("HTTPS"), None, "{kind} {target}");
        }
        let proxied = "GET /env HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n\r\n";
        assert_eq!(environment(&server, proxied)["HTTPS"], "on", "{kind}");
    }
}

#[test]
fn a_program_that_fails_harms_only_its_client() {
    for kind in KINDS {
        let server = program(kind, "--cores 2 --harakiri 0.5");
        for (path, status, metric) in [
            ("/nonsense", 500, "guest_error"),
            ("/silent", 500, "no_response"),
            ("/exit", 500, "exit_status"),
            ("/trap", 500, "trap"),
            ("/spin", 504, "deadline"),
        ] {
            assert_eq!(server.get(path).status, status, "{kind}: {path}");
            server.wait_for_figure(&format!("/requests/failures/{metric}"), 1);
            assert_eq!(server.get("/teapot").status, 418, "{kind}: after {path}");
        }
        let reply = server.get("/half");
        assert_eq!((reply.status, reply.complete), (200, false), "{kind}: ends with 4");
        // Of 4 and 3, `wasi:cli/exit` knows only that they are not 0.
        for status in if kind == "program" { ["4", "3"] } else { ["1", "1"] } {
            server.wait_for_line(&format!("the program ended with status {status}"));
        }
        assert_eq!(server.get("/error").status, 200);
        server.wait_for_line("the error");
    }
}

#[test]
fn a_core_module_defers_and_is_run_again_for_it() {
    let server = program("program", "--cores 2 --deferred-payload 20 --deferred-pending 1000");
    let mut connection = Connection::open(server.address);
    let ids: Vec<u64> = (0..100)
        .map(|number| {
            connection.post("/later", format!("number {number}").as_bytes()).text().parse().unwrap()
        })
        .collect();
    for number in 0..100 {
        server.wait_for_line(&format!("deferred number {number}"));
    }
    server.wait_for_figure("/deferred/done", ids.len() as u64);
    assert_eq!(connection.post("/later", b"a payload of more than twenty").text(), "-1");
    let id = connection.post("/later", b"never").text().to_owned();
    assert_eq!(connection.post("/cancel", id.as_bytes()).text(), "1");
    assert_eq!(connection.post("/cancel", id.as_bytes()).text(), "0");
    connection.post("/later", b"!");
    server.wait_for_figure("/deferred/failed", 1);
    server.wait_for_line("the program ended with status 7");
    assert_eq!(server.get("/outside").status, 500);
    server.wait_for_line("a payload that is not in the memory");
    assert!(!server.log().contains("never"));
}

#[test]
fn a_client_that_leaves_ends_the_program() {
    for kind in KINDS {
        let server = program(kind, "--cores 1");
        let mut connection = Connection::open(server.address);
        connection.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
        connection.head().unwrap();
        drop(connection);
        assert_eq!(server.get("/teapot").status, 418, "{kind}: its core is free again");
    }
}

#[test]
fn a_thousand_requests_side_by_side_all_have_their_answer() {
    let server = program("program", "--cores 4");
    std::thread::scope(|scope| {
        for client in 0..10 {
            let address = server.address;
            scope.spawn(move || {
                let mut connection = Connection::open(address);
                for number in 0..100 {
                    let body = format!("{client} {number}");
                    assert_eq!(connection.post("/echo", body.as_bytes()).text(), body);
                }
            });
        }
    });
    assert_eq!(server.figure("/requests/failures/trap"), 0);
}

/// Every one of them answers, and each deferred call runs in an instance of its own.
fn a_thousand_requests(program: &Path) {
    let server = setup(program).options("--cores 4").start();
    let ids: BTreeSet<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(server.address);
                    let id = |number: u32| {
                        let reply = connection.get(&format!("/call/{number}?delay-ms=100"));
                        assert_eq!((reply.status, reply.field("content-type")), (200, Some("text/plain")));
                        reply.text().trim_end().to_owned()
                    };
                    (0..250).map(id).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1000);
    server.wait_for_figure("/deferred/done", 1000);
    wait_for("a line of each call", || {
        let log = server.log();
        let lines: BTreeSet<&str> = log.lines().filter(|line| line.contains(": /call/")).collect();
        (lines.len() == 1000).then_some(())
    });
    assert_eq!(server.figure("/instances_created"), 2000);
}

#[test]
fn a_program_in_c_serves_a_thousand_requests_and_defers() {
    let programs = scripts::build("c/cgi", "programs-in-c");
    assert_eq!(setup(programs.join("hello.wasm")).start().get("/").text(), "Hello World");
    a_thousand_requests(&programs.join("deferred.wasm"));
}

#[test]
fn a_program_in_go_serves_a_thousand_requests_and_defers() {
    a_thousand_requests(&scripts::build("go/cgi", "program-in-go.wasm"));
}
