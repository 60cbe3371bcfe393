use std::io::Write;
use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use super::file;
use crate::support::client::{Connection, Reply};
use crate::support::packages;
use crate::support::server::{Server, setup_python};

fn flask() -> Server {
    setup_python(file("applications/flask_app.py"))
        .option("--pythonpath", packages::flask())
        .options("--cores 2")
        .start()
}

/// A browser with one tab: a connection that is kept, and cookies.
struct Browser {
    address: SocketAddr,
    connection: Connection,
    cookies: Vec<(String, String)>,
}

impl Browser {
    fn open(server: &Server) -> Browser {
        Browser { address: server.address, connection: Connection::open(server.address), cookies: Vec::new() }
    }

    fn ask(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Reply {
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie =
            if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: flask.test\r\n{cookie}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let reply = self.exchange(&[head.as_bytes(), body].concat());
        assert!(reply.complete, "{method} {path}");
        for (_, value) in reply.fields.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) =
                value.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            self.cookies.retain(|(known, _)| known != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
        reply
    }

    /// As browsers do, it opens another connection if the one that was kept has been
    /// closed: a server may do that when an application has not read a body.
    fn exchange(&mut self, request: &[u8]) -> Reply {
        if self.connection.socket.write_all(request).is_ok()
            && let Ok(reply) = self.connection.try_reply()
        {
            return reply;
        }
        self.connection = Connection::open(self.address);
        self.connection.send(request);
        self.connection.reply()
    }

    fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, "text/plain", b"")
    }

    fn submit(&mut self, path: &str, form: &str) -> Reply {
        self.ask("POST", path, "application/x-www-form-urlencoded", form.as_bytes())
    }
}

#[test]
fn a_browser_logs_in_by_a_form_and_is_known_from_then_on() {
    let server = flask();
    let mut browser = Browser::open(&server);
    let page = browser.get("/");
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("<p>Hello nobody!!!</p>"), "{}", page.text());
    assert!(page.text().contains("action=\"/login\""), "{}", page.text());
    let redirect = browser.submit("/login", "name=Zo%C3%AB+%3Cb%3E");
    assert_eq!((redirect.status, redirect.field("location")), (302, Some("/")));
    let page = browser.get(redirect.field("location").unwrap());
    // The template escapes what the form brought.
    assert!(page.text().contains("<p>Hello Zoë &lt;b&gt;!!!</p>"), "{}", page.text());
    // Another browser is another user, even in the same instance.
    assert!(Browser::open(&server).get("/").text().contains("nobody"));
    // A cookie with a wrong signature is none.
    browser.cookies[0].1.push('x');
    assert!(browser.get("/").text().contains("nobody"));
}

#[test]
fn json_goes_in_and_out_and_nonsense_is_refused() {
    let server = flask();
    let mut browser = Browser::open(&server);
    let reply = browser.ask("POST", "/json", "application/json", br#"{"numbers": [1, 2.5, 3]}"#);
    assert_eq!((reply.status, reply.field("content-type")), (200, Some("application/json")));
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&reply.body).unwrap(),
        serde_json::json!({ "sum": 6.5 })
    );
    assert_eq!(browser.ask("POST", "/json", "application/json", b"{").status, 400);
    assert_eq!(browser.ask("POST", "/json", "text/plain", b"{}").status, 415);
    assert_eq!(browser.submit("/login", "other=1").status, 400);
}

#[test]
fn an_upload_of_five_megabytes_arrives_as_it_was() {
    let server = flask();
    let content: Vec<u8> = (0..5 << 20).map(|n: u32| (n.wrapping_mul(2654435761) >> 13) as u8).collect();
    let start = "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"five.bin\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n";
    let body = [start.as_bytes(), &content, b"\r\n--edge--\r\n"].concat();
    let mut browser = Browser::open(&server);
    for _ in 0..3 {
        let reply = browser.ask("POST", "/upload", "multipart/form-data; boundary=edge", &body);
        assert_eq!(reply.status, 200);
        let told: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((&told["name"], &told["length"]), (&"five.bin".into(), &content.len().into()));
        assert_eq!(told["sha256"], format!("{:x}", Sha256::digest(&content)));
    }
}

#[test]
fn a_download_of_twenty_megabytes_streams() {
    let server = flask();
    let expected: String = (0..320).map(|number| format!("{number:065535}\n")).collect();
    let mut browser = Browser::open(&server);
    for _ in 0..2 {
        let reply = browser.get("/download");
        assert_eq!((reply.status, reply.field("transfer-encoding")), (200, Some("chunked")));
        assert_eq!(reply.body.len(), 20 << 20);
        assert!(reply.body == expected.as_bytes(), "the content differs");
    }
}

#[test]
fn failures_are_the_error_handlers_or_a_500_with_a_traceback() {
    let server = flask();
    let mut browser = Browser::open(&server);
    let reply = browser.get("/nowhere/at%20all");
    assert_eq!(reply.status, 404);
    let told: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(told, serde_json::json!({ "error": "not found", "path": "/nowhere/at all" }));
    let reply = browser.get("/fails");
    assert_eq!(reply.status, 500);
    assert!(!reply.text().contains("on purpose"));
    server.wait_for_line("RuntimeError: on purpose");
    assert!(server.log().contains("Traceback (most recent call last):"));
    assert_eq!(browser.get("/teapot").status, 418);
    assert_eq!(browser.submit("/", "").status, 405);
    assert_eq!(browser.get("/").status, 200);
}

#[test]
fn a_route_defers_work_with_what_it_knows_of_its_user() {
    let server = flask();
    let mut browser = Browser::open(&server);
    browser.submit("/login", "name=Zo%C3%AB");
    let reply = browser.submit("/later", "words=buy+milk");
    assert_eq!((reply.status, reply.text()), (202, "It will be written down.\n"));
    server.wait_for_line("written down for Zoë: buy milk");
    server.wait_for_figure("/deferred/done", 1);
}

#[test]
fn a_middleware_sees_every_response() {
    let server = flask();
    let mut browser = Browser::open(&server);
    for path in ["/", "/nowhere", "/fails", "/download"] {
        assert_eq!(browser.get(path).field("x-stamped"), Some(path));
    }
}
