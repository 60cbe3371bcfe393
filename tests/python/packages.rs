use std::fs;

use sha2::{Digest, Sha256};

use super::{ask, root};
use crate::support::client::Connection;
use crate::support::server::{Server, setup_python};
use crate::support::{Folder, packages};

/// A server for `tests/fixtures/packages.py`, whose files are in the folder.
fn serve(folder: &Folder, options: &str) -> Server {
    fs::create_dir(folder.join("static")).expect("the folder can be written");
    fs::write(folder.join("static/text.txt"), "0123456789").expect("the folder can be written");
    setup_python(root().join("tests/fixtures/packages.py"))
        .option("--pythonpath", packages::bottle())
        .option("--pythonpath", packages::whitenoise())
        .option("--pythonpath", packages::sqlalchemy())
        .dir(&folder.0)
        .options(options)
        .start()
}

fn assert_silent(server: Server) {
    let log = server.stop().log;
    for word in ["Assertion", "Warning", "garbage collected"] {
        assert!(!log.contains(word), "{word} in {log}");
    }
}

#[test]
fn bottle_answers_forms_uploads_and_json() {
    let folder = Folder::new();
    let server = serve(&folder, "--cores 2");
    let reply = server.get("/hello/W%C3%B6rld%3C");
    assert_eq!((reply.status, reply.text()), (200, "Hello Wörld&lt;!"));
    assert!(reply.field("set-cookie").is_some());
    let post = |path: &str, kind: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nCookie: name=me\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = Connection::open(server.address);
        connection.send([head.as_bytes(), body].concat());
        connection.reply()
    };
    let reply = post("/form", "application/x-www-form-urlencoded", b"name=caf%C3%A9&x=1");
    assert_eq!(reply.text(), r#"{"name": "caf\u00e9", "cookie": "me"}"#);
    assert_eq!(post("/json", "application/json", b"{\"numbers\": [1, 2, 3]}").text(), r#"{"sum": 6}"#);
    // Over what Bottle keeps in memory, so that it wants a temporary file.
    let content: Vec<u8> = (0..2 << 20).map(|n: u32| (n.wrapping_mul(2654435761) >> 13) as u8).collect();
    let part = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    let body = [part, content.as_slice(), b"\r\n--b--\r\n"].concat();
    let sum: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let reply = post("/upload", "multipart/form-data; boundary=b", &body);
    assert_eq!(reply.text(), format!("{} {sum}", content.len()));
    let reply = server.get("/pieces/100");
    assert_eq!((reply.body.len(), reply.complete), (100_000, true));
    let reply = server.get("/no/such/page");
    assert_eq!(reply.status, 404);
    // The framework writes its traceback by itself.
    assert_eq!(server.get("/fails").status, 500);
    server.wait_for_line("no_such_module was not imported when the component was built");
    assert_silent(server);
}

#[test]
fn bottle_reads_bodies_in_chunks_to_their_end() {
    let folder = Folder::new();
    let server = serve(&folder, "--cores 2");
    let mut connection = Connection::open(server.address);
    for (path, kind, body) in [
        ("/raw", "application/octet-stream", Vec::new()),
        ("/raw", "application/octet-stream", b"a".to_vec()),
        ("/raw", "application/octet-stream", (0..3 << 20).map(|n: u32| (n >> 3) as u8).collect()),
        ("/form", "application/x-www-form-urlencoded", b"name=caf%C3%A9".to_vec()),
        ("/json", "application/json", b"{\"numbers\": [1, 2, 3]}".to_vec()),
    ] {
        connection.send(format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        for chunk in body.chunks(70_000) {
            connection.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        connection.send("0\r\n\r\n");
        let reply = connection.reply();
        let sum: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = match path {
            "/form" => r#"{"name": "caf\u00e9", "cookie": null}"#.to_owned(),
            "/json" => r#"{"sum": 6}"#.to_owned(),
            _ => format!("{} {sum}", body.len()),
        };
        assert_eq!(reply.text(), expected, "{path}, {} bytes", body.len());
    }
    assert_eq!(server.figure("/connections/accepted"), 1);
    assert_silent(server);
}

#[test]
fn whitenoise_serves_files_and_ranges_of_them() {
    let folder = Folder::new();
    let server = serve(&folder, "--cores 1");
    let get =
        |fields: &str| ask(&server, &format!("GET /static/text.txt HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
    let whole = get("");
    assert_eq!((whole.status, whole.text()), (200, "0123456789"));
    assert_eq!(whole.field("content-type"), Some("text/plain; charset=\"utf-8\""));
    for (range, status, text, content_range) in [
        ("0-3", 206, "0123", Some("bytes 0-3/10")),
        ("4-", 206, "456789", Some("bytes 4-9/10")),
        ("-2", 206, "89", Some("bytes 8-9/10")),
        ("8-100", 206, "89", Some("bytes 8-9/10")),
        ("10-", 416, "", Some("bytes */10")),
        ("x-y", 200, "0123456789", None),
    ] {
        let target = if status == 416 { "/static/text.txt?bare" } else { "/static/text.txt" };
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nRange: bytes={range}\r\n\r\n");
        let reply = ask(&server, &request);
        assert_eq!((reply.status, reply.text()), (status, text), "{range}");
        assert_eq!(reply.field("content-range"), content_range, "{range}");
    }
    let modified = whole.field("last-modified").expect("files have it");
    assert_eq!(get(&format!("If-Modified-Since: {modified}\r\n")).status, 304);
    // Not a file of WhiteNoise's, and not in its folder.
    assert_eq!(server.get("/static/none.txt").status, 404);
    assert_eq!(server.get("/static/../accounts.db").status, 404);
    assert_silent(server);
}

#[test]
fn sqlalchemy_keeps_what_was_committed_and_nothing_else() {
    let folder = Folder::new();
    let server = serve(&folder, "--cores 4");
    let post = |path: &str| Connection::open(server.address).post(path, b"").text().to_owned();
    assert_eq!(post("/accounts/me/5"), "me=5");
    assert_eq!(post("/accounts/you/7"), "me=5 you=7");
    assert_eq!(post("/accounts/me/-2"), "me=3 you=7");
    assert_eq!(post("/fails-in-a-transaction/me"), "IntegrityError me=3 you=7");
    assert_eq!(post("/accounts/me/1"), "me=4 you=7");
    assert_eq!(server.get("/accounts").text(), "me=4 you=7");
    assert_silent(server);
    // Another server, and other instances.
    fs::remove_dir_all(folder.join("static")).expect("it is there");
    assert_eq!(serve(&folder, "--cores 1 --max-requests 1").get("/accounts").text(), "me=4 you=7");
}
