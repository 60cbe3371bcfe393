//! Requests by `wasi:http`, as its guests make them and as it says: each case for 0.2 and 0.3, and over
//! HTTP/1.1 and HTTP/2.

use std::io::Write;

use crate::support::client::Connection;
use crate::support::negotiating::Negotiating;
use crate::support::peers::full_port;
use crate::support::server::{Server, setup};
use crate::support::tls::Authority;
use crate::support::upstream::{Asked, Upstream};
use crate::support::{Folder, guest};

/// Guests that make one request as they are told, and tell what came of it.
const PROBES: [&str; 2] = ["probe", "probe-0.3"];
const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

/// What such a guest tells; of fields only those that begin with `x-`.
fn probe(server: &Server, url: &str, fields: &str) -> Vec<String> {
    let mut connection = Connection::open(server.address);
    let fields: String =
        fields.split('\n').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Url: {url}\r\n{fields}\r\n"));
    let reply = connection.reply();
    assert_eq!(reply.status, 200, "{url} {fields}: {}", reply.text());
    let is_shown = |line: &&str| !line.starts_with("field ") || line.starts_with("field x-");
    reply.text().lines().filter(is_shown).map(str::to_owned).collect()
}

/// The lines of a case that hold for one of two, where they are told apart by ` | `.
fn of_one(lines: &[&str], index: usize) -> Vec<String> {
    let lines = lines.iter().map(|line| line.split(" | ").nth(index).unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A path, what the guest is told, and what it tells: by 0.2 | by 0.3.
type Case = (&'static str, &'static str, &'static [&'static str]);

const OK: &str = "status 200";
const INCOMPLETE: &str = "error ErrorCode::HttpProtocolError";

/// The same by HTTP/1.1 and HTTP/2.
const CASES: &[Case] = &[
    ("/", "", &[OK, "field x-method: GET", "body 0"]),
    // Methods.
    ("/", "x-method: HEAD", &[OK, "field x-method: HEAD", "body 0"]),
    ("/", "x-method: POST", &[OK, "field x-method: POST", "body 0"]),
    ("/", "x-method: PUT\nx-body: 5", &[OK, "field x-method: PUT", "body 5"]),
    ("/", "x-method: DELETE", &[OK, "field x-method: DELETE", "body 0"]),
    ("/", "x-method: OPTIONS", &[OK, "field x-method: OPTIONS", "body 0"]),
    ("/", "x-method: TRACE", &[OK, "field x-method: TRACE", "body 0"]),
    ("/", "x-method: PATCH\nx-body: 5", &[OK, "field x-method: PATCH", "body 5"]),
    ("/", "x-method: M-SEARCH", &[OK, "field x-method: M-SEARCH", "body 0"]),
    ("/", "x-method: get", &[OK, "field x-method: get", "body 0"]),
    ("/", "x-method: A B", &["refused method"]),
    ("/", "x-method: CONNECT", &["error ErrorCode::HttpRequestUriInvalid"]),
    // Fields that belong to the connection, or are none.
    (
        "/",
        "x-field: connection: close",
        &["refused connection HeaderError::Forbidden", OK, "field x-method: GET", "body 0"],
    ),
    (
        "/",
        "x-field: Keep-Alive: 5",
        &["refused Keep-Alive HeaderError::Forbidden", OK, "field x-method: GET", "body 0"],
    ),
    (
        "/",
        "x-field: proxy-authorization: a",
        &["refused proxy-authorization HeaderError::Forbidden", OK, "field x-method: GET", "body 0"],
    ),
    (
        "/",
        "x-field: transfer-encoding: chunked",
        &["refused transfer-encoding HeaderError::Forbidden", OK, "field x-method: GET", "body 0"],
    ),
    (
        "/",
        "x-field: upgrade: a",
        &["refused upgrade HeaderError::Forbidden", OK, "field x-method: GET", "body 0"],
    ),
    (
        "/",
        "x-field: http2-settings: a",
        &["refused http2-settings HeaderError::Forbidden", OK, "field x-method: GET", "body 0"],
    ),
    ("/", "x-field: host: a", &["refused host HeaderError::Forbidden", OK, "field x-method: GET", "body 0"]),
    (
        "/",
        "x-field: a b: 1",
        &["refused a b HeaderError::InvalidSyntax", OK, "field x-method: GET", "body 0"],
    ),
    (
        "/",
        "x-field: content-length: many",
        &["refused content-length HeaderError::InvalidSyntax", OK, "field x-method: GET", "body 0"],
    ),
    // Bodies, with a length and without.
    ("/", "x-method: POST\nx-body: 0", &[OK, "field x-method: POST", "body 0"]),
    ("/", "x-method: POST\nx-body: 5,5", &[OK, "field x-method: POST", "body 10"]),
    ("/", "x-method: POST\nx-body: 3000000", &[OK, "field x-method: POST", "body 3000000"]),
    ("/", "x-body: 0", &[OK, "field x-method: GET", "body 0"]),
    ("/", "x-body: 5,5", &[OK, "field x-method: GET", "body 10"]),
    (
        "/",
        "x-body: 5\nx-field: content-length: 5",
        &[OK, "field x-method: GET", "field x-length: 5", "body 5"],
    ),
    (
        "/",
        "x-method: POST\nx-body: 5,5\nx-field: content-length: 10",
        &[OK, "field x-method: POST", "field x-length: 10", "body 10"],
    ),
    (
        "/",
        "x-method: POST\nx-body: 5\nx-field: content-length: 10",
        &[
            "finish ErrorCode::HttpRequestBodySize(Some(5)) | sent ErrorCode::HttpRequestBodySize(Some(5))",
            INCOMPLETE,
        ],
    ),
    (
        "/",
        "x-method: POST\nx-field: content-length: 5",
        &["error ErrorCode::HttpRequestBodySize(Some(0)) | error ErrorCode::HttpProtocolError"],
    ),
    ("/", "x-method: POST\nx-body: 5\nx-end: drop", &[INCOMPLETE]),
    (
        "/",
        "x-method: POST\nx-body: 5\nx-end: drop\nx-field: content-length: 10",
        &[" | sent ErrorCode::HttpRequestBodySize(Some(5))", INCOMPLETE],
    ),
    // Trailers, which a guest announces.
    (
        "/",
        "x-method: POST\nx-body: 5\nx-field: te: trailers\nx-field: trailer: x-end\nx-trailer: x-end: 1",
        &[OK, "field x-method: POST", "body 5", "trailer x-end: 1"],
    ),
    (
        "/",
        "x-method: POST\nx-body: 5\nx-field: te: trailers\nx-field: trailer: x-end\nx-trailer: x-end: 1\nx-trailer: host: a",
        &["refused host HeaderError::Forbidden", OK, "field x-method: POST", "body 5", "trailer x-end: 1"],
    ),
    // Responses.
    ("/nothing", "", &["status 204", "body 0"]),
    ("/early", "x-method: POST\nx-body: 5", &[OK, "field x-early: 1", "body 5"]),
    ("/early", "x-method: POST\nx-body: 100\nx-end: leave", &[OK, "field x-early: 1"]),
    ("/pauses", "x-end: leave", &[OK]),
    // Times, and what breaks off.
    ("/silent", "x-times: 20000 300 20000", &["error ErrorCode::ConnectionReadTimeout"]),
    ("/silent", "x-times: 20000 0 20000", &["error ErrorCode::ConnectionReadTimeout"]),
    ("/pauses", "x-times: 20000 20000 300", &[OK, "body 5 then ErrorCode::ConnectionReadTimeout"]),
];

const TOO_LONG: &str = "x-method: POST\nx-body: 5,5\nx-field: content-length: 5";
const NOT_ANNOUNCED: &str = "x-method: POST\nx-body: 5\nx-field: te: trailers\nx-trailer: x-end: 1";

/// What differs, by HTTP/1.1 and by HTTP/2.
const BY_PROTOCOL: [&[Case]; 2] = [
    &[
        // What is more is not sent.
        (
            "/",
            TOO_LONG,
            &[
                "write ErrorCode::HttpRequestBodySize(Some(10)) | write closed",
                "finish ErrorCode::HttpRequestBodySize(Some(10)) | sent ErrorCode::HttpRequestBodySize(Some(10))",
                OK,
                "field x-method: POST",
                "field x-length: 5",
                "body 5",
            ],
        ),
        ("/", NOT_ANNOUNCED, &[OK, "field x-method: POST", "body 5"]),
        ("/breaks", "", &[OK, "body 5 then ErrorCode::HttpResponseIncomplete"]),
        ("/large-head", "", &["error ErrorCode::HttpResponseHeaderSectionSize(Some(65536))"]),
    ],
    &[
        (
            "/",
            TOO_LONG,
            &[
                "write ErrorCode::HttpRequestBodySize(Some(10)) | write closed",
                "finish ErrorCode::HttpRequestBodySize(Some(10)) | sent ErrorCode::HttpRequestBodySize(Some(10))",
                // Its end is a frame of its own, which by 0.2 is not sent after an error.
                "error ErrorCode::HttpProtocolError | status 200",
                " | field x-method: POST",
                " | field x-length: 5",
                " | body 5",
            ],
        ),
        ("/", NOT_ANNOUNCED, &[OK, "field x-method: POST", "body 5", "trailer x-end: 1"]),
        ("/breaks", "", &[OK, "body 5 then ErrorCode::HttpProtocolError"]),
        ("/large-head", "", &["error ErrorCode::HttpProtocolError"]),
    ],
];

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    // What is told of sending comes before or after the response.
    lines.sort_by_key(|line| !line.starts_with("sent "));
    lines
}

#[test]
fn requests_and_responses_are_as_the_interface_says() {
    let (authority, folder) = (Authority::new(), Folder::new());
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    let mut wrong = Vec::new();
    for (index, protocol) in PROTOCOLS.into_iter().enumerate() {
        let upstream = Negotiating::start(authority.server(&["localhost"]), protocol);
        for (version, name) in PROBES.into_iter().enumerate() {
            let server = setup(guest(name))
                .options("--cores 2 --allow-outbound https://localhost:* --allow-outbound-private")
                .options(&format!("--ca-file {}", folder.join("ca.pem").display()))
                .start();
            let url = format!("https://localhost:{}", upstream.address.port());
            for (path, fields, expected) in CASES.iter().chain(BY_PROTOCOL[index]) {
                let (told, expected) = (
                    sorted(probe(&server, &format!("{url}{path}"), fields)),
                    sorted(of_one(expected, version)),
                );
                if told != expected {
                    wrong.push(format!("{protocol} {name} {path} {fields:?}: {told:?}, not {expected:?}"));
                }
            }
        }
        for got in upstream.got() {
            let is_right = (got.version == http::Version::HTTP_2) == (protocol == "h2");
            assert!(is_right, "{protocol}: {got:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is dropped, or is shorter than it says, never is a whole body elsewhere.
#[test]
fn a_body_that_a_guest_does_not_finish_is_not_whole_for_the_upstream() {
    let (authority, folder) = (Authority::new(), Folder::new());
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for protocol in PROTOCOLS {
        for name in PROBES {
            let upstream = Negotiating::start(authority.server(&["localhost"]), protocol);
            let server = setup(guest(name))
                .options("--cores 1 --allow-outbound https://localhost:* --allow-outbound-private")
                .options(&format!("--ca-file {}", folder.join("ca.pem").display()))
                .start();
            let url = format!("https://localhost:{}/", upstream.address.port());
            for fields in
                ["x-end: drop", "x-field: content-length: 10", "x-end: drop\nx-field: content-length: 10"]
            {
                probe(&server, &url, &format!("x-method: POST\nx-body: 5\n{fields}"));
                // By then it would have come.
                probe(&server, &url, "x-method: POST\nx-body: 7");
                let whole: Vec<_> = upstream.got().into_iter().filter_map(|got| got.body).collect();
                assert!(
                    !whole.is_empty() && whole.iter().all(|bytes| *bytes == 7),
                    "{protocol} {name} {fields}: {whole:?}"
                );
            }
        }
    }
}

#[test]
fn a_hundred_requests_are_under_way_at_once() {
    let (authority, folder) = (Authority::new(), Folder::new());
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for protocol in PROTOCOLS {
        let upstream = Negotiating::start(authority.server(&["localhost"]), protocol);
        let url = format!("https://localhost:{}/", upstream.address.port());
        for name in PROBES {
            let server = setup(guest(name))
                .options("--cores 1 --outbound-per-instance 100 --allow-outbound https://localhost:*")
                .options(&format!("--allow-outbound-private --ca-file {}", folder.join("ca.pem").display()))
                .start();
            for (many, refused) in [(100, 0), (101, 1)] {
                let told = probe(&server, &url, &format!("x-method: POST\nx-body: 1000\nx-many: {many}"));
                let count = |line: &str| told.iter().filter(|told| *told == line).count();
                assert_eq!((count(OK), count("body 1000")), (100, 100), "{protocol} {name}: {told:?}");
                assert_eq!(
                    count("error ErrorCode::ConnectionLimitReached"),
                    refused,
                    "{protocol} {name}: {told:?}"
                );
            }
        }
    }
}

/// Responses byte by byte, and what the guest tells.
const RESPONSES: &[(&[u8], &[&str])] = &[
    (b"HTTP/1.1 200 OK\r\n\r\nto the end", &[OK, "body 10"]),
    (b"HTTP/1.0 200 OK\r\n\r\nto the end", &[OK, "body 10"]),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", &[OK, "body 5"]),
    (
        b"HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        &[OK, "body 5"],
    ),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\nhello", &[INCOMPLETE]),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\nX-T: 2\r\n\r\n",
        &[OK, "body 5", "trailer x-t: 1", "trailer x-t: 2"],
    ),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", &[OK, "body 5"]),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &["error ErrorCode::HttpResponseTransferCoding(Some(\"gzip, chunked\"))"],
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: strange\r\n\r\nhello",
        &["error ErrorCode::HttpResponseTransferCoding(Some(\"strange\"))"],
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &[INCOMPLETE],
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\nhello\r\n0\r\n\r\n",
        &[OK, "body 0 then ErrorCode::HttpProtocolError"],
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        &[OK, "body 5 then ErrorCode::HttpResponseIncomplete"],
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        &[OK, "body 5 then ErrorCode::HttpResponseIncomplete"],
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", &[OK, "body 5"]),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", &[INCOMPLETE]),
    (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello", &[INCOMPLETE]),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", &["status 204", "body 0"]),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", &["status 304", "body 0"]),
    (b"HTTP/1.1 599 Anything\r\nContent-Length: 0\r\n\r\n", &["status 599", "body 0"]),
    (b"HTTP/1.1 099 Low\r\nContent-Length: 5\r\n\r\nhello", &[INCOMPLETE]),
    (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", &[OK, "body 5"]),
    (b"HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nhello", &[INCOMPLETE]),
    (b"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 5\r\n\r\nhello", &[INCOMPLETE]),
    (b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 5\r\n\r\nhello", &[INCOMPLETE]),
    (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n",
        &[OK, "field x-a: 1", "field x-a: 2", "body 0"],
    ),
    (b"", &["error ErrorCode::ConnectionTerminated"]),
    (b"HTTP/1.1 200 OK\r\nContent-", &["error ErrorCode::ConnectionTerminated"]),
];

#[test]
fn responses_are_read_as_http_says() {
    let upstream = Upstream::start(|asked: &Asked, stream: &mut dyn Write| {
        let path = asked.head[0].split(' ').nth(1).unwrap_or_default();
        let index: usize = path.trim_start_matches('/').parse().map_err(std::io::Error::other)?;
        stream.write_all(RESPONSES[index].0)?;
        stream.flush()?;
        // It closes the connection.
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    let mut wrong = Vec::new();
    for name in PROBES {
        let server = setup(guest(name))
            .options(&format!("--cores 1 --allow-outbound http://{}", upstream.address))
            .start();
        for (index, (response, expected)) in RESPONSES.iter().enumerate() {
            let told = probe(&server, &format!("http://{}/{index}", upstream.address), "");
            if told != *expected {
                wrong.push(format!("{name} {}: {told:?}, not {expected:?}", response.escape_ascii()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn many_fields_are_read_and_too_many_are_an_error() {
    let upstream = Upstream::start(|asked: &Asked, stream: &mut dyn Write| {
        let path = asked.head[0].split(' ').nth(1).unwrap_or_default();
        let count: usize = path.trim_start_matches('/').parse().map_err(std::io::Error::other)?;
        let fields: String = (0..count).map(|number| format!("F{number}: 1\r\n")).collect();
        write!(stream, "HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n")
    });
    let url = format!("http://{}", upstream.address);
    for name in PROBES {
        let server = setup(guest(name)).options(&format!("--cores 1 --allow-outbound {url}")).start();
        assert_eq!(probe(&server, &format!("{url}/900"), ""), [OK, "body 0"], "{name}");
        let told = probe(&server, &format!("{url}/1100"), "");
        assert_eq!(told, ["error ErrorCode::HttpResponseHeaderSectionSize(Some(65536))"], "{name}");
    }
}

#[test]
fn targets_are_what_the_guest_sets() {
    let upstream = Upstream::start(|asked: &Asked, stream: &mut dyn Write| {
        let target = asked.head[0].split(' ').nth(1).unwrap_or_default();
        write!(stream, "HTTP/1.1 200 OK\r\nX-Target: {target}\r\nContent-Length: 0\r\n\r\n")
    });
    let (host, (full, _kept)) = (upstream.address.to_string(), full_port());
    let ok = |target: &str| vec![OK.to_owned(), format!("field x-target: {target}"), "body 0".to_owned()];
    let error = |line: &str| vec![line.to_owned()];
    for name in PROBES {
        let server = setup(guest(name)).options("--cores 1 --allow-outbound http://127.0.0.1:*").start();
        let rows = [
            (format!("http://{host}/a?b=c"), "", ok("/a?b=c")),
            // No path is the root.
            (format!("http://{host}"), "", ok("/")),
            (format!("http://{host}/a%20b?c=d&e"), "", ok("/a%20b?c=d&e")),
            (format!("http://{host}/a b"), "", error("refused path")),
            ("http://a b/".to_owned(), "", error("refused authority")),
            (format!("1!://{host}/"), "", error("refused scheme")),
            (format!("ftp://{host}/"), "", error("error ErrorCode::HttpProtocolError")),
            // Without a scheme it is HTTPS, which is not granted.
            (format!("{host}/"), "", error("error ErrorCode::HttpRequestDenied")),
            ("http:///".to_owned(), "", error("error ErrorCode::HttpRequestUriInvalid")),
            (format!("http://u:p@{host}/"), "", error("error ErrorCode::HttpRequestUriInvalid")),
            (
                format!("http://{full}/"),
                "x-times: 300 20000 20000",
                error("error ErrorCode::ConnectionTimeout"),
            ),
        ];
        for (url, fields, expected) in rows {
            assert_eq!(probe(&server, &url, fields), expected, "{name} {url}");
        }
    }
}
