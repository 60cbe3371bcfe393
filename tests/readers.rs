use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::support::client::Connection;
use crate::support::server::{Server, Setup, setup, setup_python};
use crate::support::{fault_guests, root};

/// A request over HTTP/2 whose client lets nothing of the body come until it is told to.
struct Stalled {
    reply: h2::client::ResponseFuture,
    let_come: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn stalled(server: &Server, path: &str) -> Stalled {
    let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0).initial_connection_window_size(1 << 20);
    let (client, mut connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let (let_come, is_let) = oneshot::channel();
    let task = tokio::spawn(async move {
        let is_over = tokio::select! {
            _ = &mut connection => true,
            // It is dropped by clients that leave.
            is_let = is_let => is_let.is_err(),
        };
        if !is_over {
            connection.set_initial_window_size(1 << 20).unwrap();
            let _ = connection.await;
        }
    });
    let request = http::Request::get(format!("http://test{path}")).body(()).unwrap();
    let (reply, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
    Stalled { reply, let_come, task }
}

impl Stalled {
    /// Takes all of the body. Its length, and whether it was complete.
    async fn take(self) -> (usize, bool) {
        self.let_come.send(()).unwrap();
        let mut body = self.reply.await.unwrap().into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let Ok(data) = data else { return (length, false) };
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        (length, true)
    }

    async fn leave(self) {
        drop(self.let_come);
        self.task.await.unwrap();
    }
}

fn on_one_core(setup: Setup, more: &str) -> Server {
    setup.options(&format!("--cores 1 --harakiri 600 --write-timeout 600 {more}")).start()
}

fn faults(more: &str) -> Server {
    on_one_core(setup(fault_guests::component("faults")), more)
}

async fn assert_taken_early(server: Server, path: &str, length: usize) {
    let stalled = stalled(&server, path).await;
    server.wait_for_figure("/instances_created", 1);
    server.wait_for_figure("/cores/busy", 0);
    // The core serves others, while the client has nothing of the body.
    assert!(server.get("/hello").status != 503);
    server.wait_for_figure("/requests/answered/2xx", 1);
    assert_eq!(stalled.take().await, (length, true), "{path}");
    let line = server.wait_for_line(&format!("GET {path} "));
    assert!(line.contains(&format!(" 200 {length} ")) && line.ends_with("core=0"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_fits_holds_no_core_whatever_its_client_takes() {
    let rows = [("faults", "/body/20", 20 * 4096), ("faults-0.3", "/body/20", 20 * 4096 + 1)];
    for (name, path, length) in rows {
        assert_taken_early(on_one_core(setup(fault_guests::component(name)), ""), path, length).await;
    }
    // Also one that is written piece by piece over some time.
    assert_taken_early(faults(""), "/slow-body", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_does_that_of_a_program() {
    for name in ["program", "program-0.2"] {
        let server = on_one_core(setup(fault_guests::component(name)), "");
        let stalled = stalled(&server, "/pieces").await;
        server.wait_for_figure("/instances_created", 1);
        server.wait_for_figure("/cores/busy", 0);
        assert_eq!(server.get("/teapot").status, 418, "{name}");
        assert_eq!(stalled.take().await, (100_000, true), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_that_of_a_python_application() {
    let server = on_one_core(setup_python(root().join("tests/fixtures/faults.py")), "");
    assert_taken_early(server, "/pieces/100", 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_does_not_fit_waits_with_its_guest_for_the_client() {
    let full = ["--response-buffer 100K", "--response-memory 100K", "--response-buffer 0"];
    for options in full {
        let server = faults(options);
        let stalled = stalled(&server, "/body/100").await;
        server.wait_for_figure("/cores/busy", 1);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.figure("/cores/busy"), 1, "{options}");
        assert_eq!(stalled.take().await, (100 * 4096, true), "{options}");
        server.wait_for_figure("/cores/busy", 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_broke_breaks_behind_what_was_taken() {
    let server = faults("");
    let stalled = stalled(&server, "/trap-in-body/100").await;
    server.wait_for_figure("/requests/failures/trap", 1);
    server.wait_for_figure("/cores/busy", 0);
    assert_eq!(stalled.take().await, ("partial".len(), false));
    let line = server.wait_for_line("GET /trap-in-body/100 HTTP");
    assert!(line.ends_with(" broken"), "{line}");
    assert_eq!(server.figure("/requests/cancelled"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_what_was_taken_is_in_the_log() {
    let server = faults("");
    let stalled = stalled(&server, "/body/20").await;
    server.wait_for_figure("/instances_created", 1);
    server.wait_for_figure("/cores/busy", 0);
    stalled.leave().await;
    let line = server.wait_for_line("GET /body/20 ");
    assert!(line.ends_with(" cancelled"), "{line}");
    assert_eq!(server.figure("/requests/cancelled"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_for_slow_clients_comes_back() {
    let server = faults("--response-memory 300K");
    for number in 1..=10 {
        let stalled = stalled(&server, "/body/60").await;
        server.wait_for_figure("/instances_created", number);
        server.wait_for_figure("/cores/busy", 0);
        stalled.leave().await;
        server.wait_for_figure("/connections/open", 0);
    }
}

#[test]
fn slow_readers_of_http1_hold_no_core_either() {
    let setup = setup(fault_guests::component("program"));
    // 32 MiB, more than the system takes for a client.
    let server = on_one_core(setup, "--response-buffer 40M --response-memory 200M");
    let mut slow: Vec<Connection> = (0..3)
        .map(|number| {
            let mut connection = Connection::open(server.address);
            connection.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
            server.wait_for_figure("/instances_created", number + 1);
            server.wait_for_figure("/cores/busy", 0);
            connection
        })
        .collect();
    assert_eq!(server.figure("/requests/answered/2xx"), 0);
    for connection in &mut slow {
        let reply = connection.reply();
        assert_eq!((reply.body.len(), reply.complete), (32 << 20, true));
    }
}

#[test]
fn a_body_that_is_not_sent_and_has_no_end_leaves_time_for_others() {
    let server = faults("--cores 2 --threads 1 --harakiri 20");
    let mut head_alone = Connection::open(server.address);
    head_alone.send("HEAD /endless-body HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head_alone.head().unwrap().status, 200);
    for _ in 0..10 {
        assert_eq!(server.get("/hello").status, 200);
        // Its call is under way meanwhile.
        assert_eq!(server.figure("/cores/busy"), 1);
    }
}
