use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::support::client::{self, Connection, open_from};
use crate::support::server::{Server, setup};
use crate::support::{Folder, fault_guests, guest};

const OTHER: [u8; 4] = [127, 0, 0, 2];

/// Guests that know `/wait` and `/hello`, by the path that stands for `/wait`.
const GUESTS: [(&str, &str); 4] =
    [("faults", "/wait"), ("faults-0.3", "/wait"), ("program", "/spin"), ("program-0.2", "/spin")];

fn asking(mut connection: Connection, path: &str) -> Connection {
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    connection
}

fn is_closed(connection: Connection) -> bool {
    asking(connection, "/").try_reply().is_err()
}

#[test]
fn connections_that_ask_nothing_do_not_silence_the_figures() {
    let server = setup(guest("hello")).options("--idle-timeout 600 --head-timeout 600").start();
    let idle: Vec<Connection> = (0..200)
        .map(|number| {
            let mut connection = Connection::open(server.stats_address);
            if number % 2 == 0 {
                connection.send("GET /healthz HTTP/1.1\r\n");
            }
            connection
        })
        .collect();
    let start = Instant::now();
    for path in ["/healthz", "/stats", "/metrics"] {
        assert_eq!(client::get(server.stats_address, path).status, 200, "{path}");
    }
    // A second on a quiet machine; no idle time ends before ten minutes.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(idle);
}

#[test]
fn who_asks_for_figures_again_and_again_keeps_the_connection() {
    let server = setup(guest("hello")).options("--idle-timeout 600").start();
    let mut asking = Connection::open(server.stats_address);
    let mut idle = Vec::new();
    for _ in 0..150 {
        assert_eq!(asking.get("/healthz").status, 200);
        idle.push(Connection::open(server.stats_address));
    }
    assert_eq!(asking.get("/healthz").status, 200);
}

#[test]
fn a_client_has_so_many_connections_and_others_theirs() {
    let server = setup(guest("hello")).options("--connections-per-client 3").start();
    let mut held: Vec<Connection> = (0..3).map(|_| Connection::open(server.address)).collect();
    server.wait_for_figure("/connections/open", 3);
    assert!(is_closed(Connection::open(server.address)));
    server.wait_for_figure("/connections/refused", 1);
    let metrics = client::get(server.stats_address, "/metrics");
    assert!(metrics.text().contains("wasm_serve_connections_refused_total 1\n"), "{}", metrics.text());
    assert_eq!(open_from(OTHER, server.address).get("/").status, 200);
    assert_eq!(held[0].get("/").status, 200);
    held.pop();
    server.wait_for_figure("/connections/open", 2);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn proxies_and_unix_sockets_have_as_many_connections_as_they_like() {
    let options = "--connections-per-client 1 --cores-per-client 1 --trusted-proxy 127.0.0.1";
    let server = setup(guest("hello")).options(options).start();
    let mut held: Vec<Connection> = (0..5).map(|_| Connection::open(server.address)).collect();
    assert!(held.iter_mut().all(|connection| connection.get("/").status == 200));
    let first = open_from(OTHER, server.address);
    server.wait_for_figure("/connections/open", 6);
    assert!(is_closed(open_from(OTHER, server.address)));
    drop(first);
    let folder = Folder::new();
    let path = folder.join("http.sock");
    let _server = setup(guest("hello"))
        .options(&format!("--connections-per-client 1 --http-socket unix:{}", path.display()))
        .start();
    let mut held: Vec<_> = (0..5).map(|_| Connection::over(UnixStream::connect(&path).unwrap())).collect();
    assert!(held.iter_mut().all(|connection| connection.get("/").status == 200));
}

#[test]
fn a_client_gets_so_many_cores_and_others_theirs() {
    for (name, path) in GUESTS {
        let options = "--cores 4 --cores-per-client 2 --queue-timeout 600 --queue 8 --harakiri 600";
        let server = setup(fault_guests::component(name)).options(options).start();
        let mut all: Vec<Connection> = (0..6)
            .map(|number| {
                let connection = asking(Connection::open(server.address), path);
                let (busy, waiting) = (u64::min(number + 1, 2), number.saturating_sub(1));
                server.wait_for_figure("/cores/busy", busy);
                server.wait_for_figure("/cores/queue", waiting);
                connection
            })
            .collect();
        // Of the queue's eight places it has four, too.
        assert_eq!(server.get("/hello").status, 503, "{name}");
        let mut other = open_from(OTHER, server.address);
        for _ in 0..20 {
            assert!(matches!(other.get("/hello").status, 200 | 418), "{name}");
        }
        // The first of those that wait gets the core of one that is gone.
        drop(all.remove(0));
        server.wait_for_figure("/cores/queue", 3);
        assert_eq!(server.figure("/cores/busy"), 2, "{name}");
    }
}

#[test]
fn a_request_at_its_clients_bound_is_refused_in_the_end() {
    let options = "--cores 4 --cores-per-client 1 --queue-timeout 0.3 --harakiri 600";
    let server = setup(fault_guests::component("faults")).options(options).start();
    let _first = asking(Connection::open(server.address), "/wait");
    server.wait_for_figure("/cores/busy", 1);
    let refused = server.get("/hello");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    assert_eq!(server.figure("/requests/failures/queue_timeout"), 1);
    assert_eq!(server.figure("/cores/queue"), 0);
}

#[test]
fn by_default_no_client_has_all_cores() {
    let server = setup(fault_guests::component("faults"))
        .options("--cores 8 --harakiri 600 --write-timeout 600")
        .start();
    let _all: Vec<Connection> =
        (0..20).map(|_| asking(Connection::open(server.address), "/endless-body")).collect();
    server.wait_for_figure("/cores/busy", 7);
    assert_eq!(open_from(OTHER, server.address).get("/hello").text(), "Hello World");
    // One that may have all has all.
    let server = setup(fault_guests::component("faults")).options("--cores 8 --cores-per-client 0").start();
    let _all: Vec<Connection> = (0..20).map(|_| asking(Connection::open(server.address), "/wait")).collect();
    server.wait_for_figure("/cores/busy", 8);
}

/// A connection of HTTP/2 that asks `count` times for `path` and lets nothing come.
async fn stalled(server: &Server, path: &str, count: usize) -> impl Drop + use<> {
    let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (client, connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let task = tokio::spawn(connection);
    let mut replies = Vec::new();
    for _ in 0..count {
        let request = http::Request::get(format!("http://test{path}")).body(()).unwrap();
        let mut ready = client.clone().ready().await.unwrap();
        replies.push(ready.send_request(request, true).unwrap());
    }
    Stalled { _replies: replies, task }
}

struct Stalled {
    _replies: Vec<(h2::client::ResponseFuture, h2::SendStream<Bytes>)>,
    task: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_http2_that_take_nothing_do_not_have_all_cores() {
    let server = setup(fault_guests::component("faults"))
        .options("--cores 16 --harakiri 600 --queue-timeout 600")
        .start();
    let _stalled = [
        stalled(&server, "/endless-body", 100).await,
        stalled(&server, "/endless-body", 100).await,
        stalled(&server, "/endless-body", 100).await,
    ];
    server.wait_for_figure("/cores/busy", 14);
    let mut other = open_from(OTHER, server.address);
    for _ in 0..20 {
        assert_eq!(other.get("/hello").text(), "Hello World");
    }
}
