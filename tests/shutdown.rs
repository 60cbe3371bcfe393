use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::server::{Server, setup};
use crate::support::{fault_guests, guest};

fn faults(name: &str, options: &str) -> Server {
    setup(fault_guests::component(name)).options(options).start()
}

#[test]
fn an_idle_server_stops_at_once() {
    for signal in ["TERM", "INT"] {
        let server = setup(guest("hello")).start();
        // A connection that is kept for later does not hold it.
        let mut idle = Connection::open(server.address);
        assert_eq!(idle.get("/").status, 200);
        let _silent = Connection::open(server.address);
        let start = Instant::now();
        server.signal(signal);
        assert_eq!(server.wait().status.code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(20), "it waited for the grace period");
    }
}

#[test]
fn requests_whose_head_was_read_finish() {
    let server = faults("faults", "--cores 1");
    let mut running = Connection::open(server.address);
    running.send("GET /sleep/500 HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    let mut waiting = Connection::open(server.address);
    waiting.send("GET /sleep/100 HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/queue", 1);
    server.signal("TERM");
    for connection in [&mut running, &mut waiting] {
        let reply = connection.reply();
        assert_eq!((reply.status, reply.complete), (200, true));
    }
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn a_stop_under_load_loses_no_request_whose_head_was_read() {
    let server = setup(guest("hello")).options("--cores 4").start();
    let address = server.address;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut connection = Connection::open(address);
                let mut answered = 0;
                loop {
                    use std::io::Write;
                    let sent = connection.socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    match sent.and_then(|()| connection.try_reply()) {
                        Ok(reply) => {
                            // What is begun is whole.
                            assert!(reply.complete);
                            answered += 1;
                        }
                        Err(_) => return answered,
                    }
                }
            })
        })
        .collect();
    while server.figure("/requests/answered/2xx") < 1000 {}
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0));
    let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let logged =
        ended.log.lines().filter(|line| line.contains("\" 200 11 ") && !line.contains("cancelled")).count();
    assert_eq!(answered, logged);
}

#[test]
fn calls_that_come_due_in_the_grace_period_run_and_the_rest_is_named() {
    let server = faults("deferred-faults", "--grace 2 --deferred-per-call 3000");
    server.get("/later/500/in-time");
    server.get("/later/60000/too-late");
    assert_eq!(server.get("/many/1500/60000").status, 200);
    let start = Instant::now();
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(ended.log.contains("in-time\n"));
    assert!(!ended.log.contains("too-late\n"));
    let named = ended
        .log
        .lines()
        .find(|line| line.contains("dropped 1501 pending deferred calls"))
        .expect("the count");
    assert!(named.contains(": 2 3 4 "), "{named}");
    assert!(named.ends_with(" 1001 and more"), "{named}");
}

#[test]
fn it_leaves_when_nothing_can_come_due_any_more() {
    let server = faults("deferred-faults", "--grace 600");
    server.get("/later/300/last");
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.log.contains("last\n"));
}

#[test]
fn a_callback_that_schedules_itself_ends_with_the_grace_period() {
    let server = faults("deferred-faults", "--grace 0.5");
    server.get("/later/0/again");
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.log.contains("dropped 1 pending deferred calls"), "{}", ended.log);
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = faults("faults", "--cores 1 --harakiri 600");
    let mut running = Connection::open(server.address);
    running.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    server.signal("TERM");
    server.wait_for_line("stopping");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("second signal"));
}

#[test]
fn a_second_signal_drops_what_is_due_but_not_in_silence() {
    let server = faults("deferred-faults", "--cores 2 --deferred-per-call 50000");
    assert_eq!(server.get("/many/50000/300/wait").status, 200);
    server.wait_for_figure("/deferred/running", 2);
    server.signal("TERM");
    server.wait_for_line("stopping");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("2 calls under way"), "{}", ended.log);
    assert!(ended.log.contains("dropped 49998 pending deferred calls: 3 4 "), "{}", ended.log);
}

#[test]
fn a_stop_closes_the_listener_at_once() {
    let server = faults("faults", "--cores 1");
    let mut running = Connection::open(server.address);
    running.send("GET /sleep/1000 HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    server.signal("TERM");
    server.wait_for_line("stopping");
    let address = server.address;
    crate::support::wait_for("connections to be refused", || std::net::TcpStream::connect(address).err());
    assert_eq!(running.reply().status, 200);
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn a_stop_does_not_cut_what_a_slow_client_has_not_taken_yet() {
    let folder = crate::support::Folder::new();
    let path = folder.join("http.sock");
    let server = setup(guest("echo")).options(&format!("--http-socket unix:{}", path.display())).start();
    let mut slow = Connection::over(std::os::unix::net::UnixStream::connect(&path).unwrap());
    // More than the system's buffers take, less than the server's.
    let body = vec![b'x'; 260 << 10];
    slow.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    slow.send(&body);
    server.wait_for_line("POST / ");
    server.signal("TERM");
    server.wait_for_line("stopping");
    let reply = slow.reply();
    assert!(reply.complete, "{} of {} bytes", reply.body.len(), body.len());
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn without_descriptors_it_waits_and_recovers() {
    let server = setup(guest("hello")).open_files_max(64).start();
    let address = server.address;
    let held: Vec<_> = (0..100).filter_map(|_| std::net::TcpStream::connect(address).ok()).collect();
    server.wait_for_line("cannot accept connections for now");
    drop(held);
    assert_eq!(server.get("/").text(), "Hello World");
    assert_eq!(server.stop().status.code(), Some(0));
}

#[test]
fn a_stop_under_calls_that_schedule_ever_more_ends() {
    let server = faults("deferred-faults", "--cores 2 --grace 0.5 --deferred-timeout 1");
    assert_eq!(server.get("/later/0/double").status, 200);
    // More than could run in the time that a stop may take.
    crate::support::wait_for("a backlog", || (server.figure("/deferred/pending") > 300_000).then_some(()));
    let start = Instant::now();
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(60), "it runs ever more of them");
    for text in ["more deferred calls came due than could run in ", "pending deferred calls: "] {
        assert!(ended.log.contains(text), "{text}");
    }
}
