//! What the application does that is written once in each language.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::support::client::{Connection, Reply};
use crate::support::server::{Setup, setup};
use crate::support::upstream::Upstream;
use crate::support::{Folder, root};

/// A name, what it means, and what shows it.
type Behaviour = (&'static str, &'static str, fn(&Path));

pub const BEHAVIOURS: [Behaviour; 13] = [
    ("answers", "200, a content type, a body; 404 elsewhere", answers),
    ("streams", "a body goes back piece by piece while it comes, 80 MB of it in 64 MB of memory", streams),
    ("status", "statuses and fields as asked for", status),
    ("repeated fields", "two fields of one name stay two", repeated_fields),
    ("files", "reads a file that is granted, and says why another cannot be read", files),
    (
        "fetches",
        "asks another server by HTTPS, in a request and in a deferred call, and says why it cannot",
        fetches,
    ),
    ("defers", "a deferred call gets its payload, whatever its size, and reads a file", defers),
    ("limits", "each error of `call-later` is a value with its limit", limits),
    ("cancels", "`cancel`, once true, then false", cancels),
    ("logs", "standard output and standard error, by whole lines", logs),
    ("fails alone", "a trap is a 500, and the next request is served", fails_alone),
    ("callback errors", "an error that the callback returns is in the log", callback_errors),
    ("stays warm", "20,000 requests in one instance, within the default `--memory-limit`", stays_warm),
];

fn with_files(guest: &Path) -> Setup {
    setup(guest).options("--cores 2").dir(&root().join("guests/rust/numbers"))
}

fn said(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.text())
}

fn answers(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    let reply = server.get("/");
    assert_eq!((said(&reply), reply.field("content-type")), ((200, "Hello World"), Some("text/plain")));
    assert_eq!(said(&server.get("/nowhere")), (404, "not found"));
}

fn streams(guest: &Path) {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 80;
    let server = setup(guest).options("--cores 2 --memory-limit 64M").start();
    let mut connection = Connection::open(server.address);
    let length = PIECES * PIECE;
    connection.send(format!(
        "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: x/y\r\nContent-Length: {length}\r\n\r\n"
    ));
    let pieces: Arc<[u8]> = (0..PIECE).map(|at| (at % 251) as u8).collect();
    connection.send(&pieces[..1000]);
    let reply = connection.head().unwrap();
    assert_eq!((reply.status, reply.field("content-type")), (200, Some("x/y")));
    let mut body = Vec::new();
    while body.len() < 1000 {
        assert!(connection.chunk(&mut body).unwrap());
    }
    let mut socket = connection.socket.try_clone().unwrap();
    let sent = pieces.clone();
    let sender = thread::spawn(move || {
        socket.write_all(&sent[1000..]).unwrap();
        (1..PIECES).for_each(|_| socket.write_all(&sent).unwrap());
    });
    let mut echoed = 0;
    loop {
        // Not the whole of it at once.
        while body.len() >= PIECE {
            assert!(body.drain(..PIECE).eq(pieces.iter().copied()), "after {echoed} bytes");
            echoed += PIECE;
        }
        if !connection.chunk(&mut body).unwrap() {
            break;
        }
    }
    sender.join().unwrap();
    assert_eq!(echoed + body.len(), length);
}

fn status(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    let mut connection = Connection::open(server.address);
    for code in [200, 201, 204, 304, 404, 418, 503] {
        let reply = connection.get(&format!("/status?code={code}&header=x-a:1&header=X-b:two%20words"));
        let body = if [204, 304].contains(&code) { String::new() } else { code.to_string() };
        assert_eq!(said(&reply), (code, &*body));
        assert_eq!((reply.field("x-a"), reply.field("x-b")), (Some("1"), Some("two words")), "{code}");
    }
    for query in ["", "?code=", "?code=abc", "?code=99", "?code=200&header=nothing"] {
        let reply = connection.get(&format!("/status{query}"));
        assert_eq!(reply.status, 400, "{query}");
        assert!(!reply.body.is_empty(), "{query}: says why");
    }
}

fn repeated_fields(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    let reply = server.get("/status?code=200&header=x-a:1&header=x-a:2");
    let values: Vec<&str> =
        reply.fields.iter().filter(|field| field.0 == "x-a").map(|field| &*field.1).collect();
    assert_eq!(values, ["1", "2"]);
}

fn files(guest: &Path) {
    let server = with_files(guest).start();
    let numbers = std::fs::read_to_string(root().join("guests/rust/numbers/numbers.txt")).unwrap();
    for name in ["numbers.txt", "/numbers.txt"] {
        assert_eq!(said(&server.get(&format!("/file?name={name}"))), (200, &*numbers));
    }
    for name in ["none.txt", "../Cargo.toml"] {
        let reply = server.get(&format!("/file?name={name}"));
        assert_eq!(reply.status, 404, "{name}");
        assert!(!reply.body.is_empty(), "{name}: says why");
    }
    let without = setup(guest).options("--cores 2").start();
    assert_eq!(without.get("/file?name=numbers.txt").status, 404);
}

fn fetches(guest: &Path) {
    let folder = Folder::new();
    let upstream = Upstream::start_tls(&folder, &["localhost"], |asked, stream| {
        let body = format!("answer to {}", asked.head[0]);
        write!(stream, "HTTP/1.1 203 Well\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let origin = format!("https://localhost:{}", upstream.address.port());
    let server = setup(guest)
        .options(&format!("--cores 2 --allow-outbound {origin} --allow-outbound-private"))
        .option("--ca-file", folder.join("ca.pem"))
        .start();
    let reply = server.get(&format!("/fetch?url={origin}/a?b=c"));
    assert_eq!(said(&reply), (200, "203 answer to GET /a?b=c HTTP/1.1"));
    let deferred = |url: &str| server.get(&format!("/later?delay-ms=0&text=fetch%20{url}")).status;
    assert_eq!(deferred(&format!("{origin}/later")), 200);
    server.wait_for_line("fetched 203 answer to GET /later HTTP/1.1");
    for url in ["https://localhost:7/", "https://other.test/", "nothing"] {
        let reply = server.get(&format!("/fetch?url={url}"));
        assert_eq!(reply.status, 502, "{url}: {}", reply.text());
        assert!(!reply.body.is_empty(), "{url}: says why");
    }
    assert_eq!(deferred("https://other.test/"), 200);
    server.wait_for_figure("/deferred/failed", 1);
    assert_eq!((server.figure("/deferred/done"), upstream.asked().len()), (1, 2));
}

fn defers(guest: &Path) {
    let server = with_files(guest).start();
    let id: u64 = server.get("/later?delay-ms=100&text=a_b%20c").text().parse().unwrap();
    assert!(id > 0);
    server.wait_for_line("deferred a_b c");
    assert_eq!(server.get("/later?delay-ms=0&text=read%20numbers.txt").status, 200);
    server.wait_for_line("9:10");
    let log = server.log();
    let lines: Vec<String> = (0..10).map(|k| format!("guest: {k}:{}", k + 1)).collect();
    let read: Vec<&str> = log.lines().filter(|line| lines.iter().any(|of_file| of_file == line)).collect();
    assert_eq!(read, lines);
    assert_eq!(server.get("/later?delay-ms=0&size=60000").status, 200);
    server.wait_for_line(&format!("deferred {}", "x".repeat(60_000)));
    server.wait_for_figure("/deferred/done", 3);
}

fn limits(guest: &Path) {
    let options =
        "--cores 2 --deferred-pending 3 --deferred-delay 10 --deferred-payload 1000 --deferred-memory 1500";
    let server = setup(guest).options(options).start();
    let refused = |query: &str| {
        let reply = server.get(&format!("/later?{query}"));
        assert_eq!(reply.status, 503, "{query}");
        reply.text().to_owned()
    };
    // A payload of Python is a pickle, which is larger than its text.
    assert_eq!(refused("delay-ms=9000&size=1001"), "payload-too-large 1000");
    assert_eq!(refused("delay-ms=10001&text=a"), "delay-too-long 10000000000");
    assert_eq!(server.get("/later?delay-ms=9000&size=900").status, 200);
    assert!(refused("delay-ms=9000&size=900").starts_with("unavailable "));
    assert_eq!(refused("delay-ms=9000&text=a&count=3"), "too-many-pending 3");
    assert_eq!(server.get("/later?delay-ms=x&text=a").status, 400);
}

fn cancels(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    let id = server.get("/later?text=never").text().to_owned();
    assert_eq!(said(&server.get(&format!("/cancel?id={id}"))), (200, "true"));
    assert_eq!(said(&server.get(&format!("/cancel?id={id}"))), (200, "false"));
    assert_eq!(server.figure("/deferred/cancelled"), 1);
    assert_eq!(server.get("/cancel?id=x").status, 400);
}

fn logs(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    assert_eq!(said(&server.get("/log?text=hi_there")), (200, "logged"));
    server.wait_for_line("out hi_there");
    server.wait_for_line("err hi_there");
    for text in ["out hi_there", "err hi_there"] {
        assert!(
            server.log().lines().any(|line| line.strip_prefix("guest: ") == Some(text)),
            "{text} is a line of its own"
        );
    }
}

fn fails_alone(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    for _ in 0..3 {
        assert_eq!(server.get("/trap").status, 500);
        assert_eq!(server.get("/").status, 200);
    }
}

fn callback_errors(guest: &Path) {
    let server = setup(guest).options("--cores 2").start();
    assert_eq!(server.get("/later?delay-ms=0&text=fail").status, 200);
    server.wait_for_figure("/deferred/failed", 1);
    server.wait_for_line("asked to fail");
    assert_eq!(server.get("/").status, 200);
}

fn stays_warm(guest: &Path) {
    let server = setup(guest).options("--cores 1 --threads 1 --max-requests 0").start();
    let mut connection = Connection::open(server.address);
    for _ in 0..10_000 {
        assert_eq!(connection.get("/").status, 200);
        assert_eq!(connection.post("/echo", b"a short body").text(), "a short body");
    }
    assert_eq!(server.figure("/instances_created"), 1);
}
