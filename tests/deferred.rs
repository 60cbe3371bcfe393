use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::server::{Server, setup};
use crate::support::{fault_guests, guest, root, wait_for};

fn faults(options: &str) -> Server {
    setup(fault_guests::component("deferred-faults")).options(options).start()
}

fn reader(version: &str, options: &str) -> Server {
    let numbers = root().join("guests/rust/numbers");
    setup(guest(&format!("deferred{version}"))).dir(&numbers).options(options).start()
}

/// The values of a field in the log's lines on deferred calls, in order of the
/// lines.
fn logged(server: &Server, field: &str) -> Vec<u64> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.starts_with("deferred "));
    let value = |line: &str| line.split(&format!(" {field}=")).nth(1)?.split(' ').next()?.parse().ok();
    lines.filter_map(value).collect()
}

#[test]
fn the_answer_comes_at_once_and_the_file_is_read_later() {
    for version in ["", "-0.3"] {
        let server = reader(version, "--cores 2 --log-deferred");
        let reply = server.get("/?delay-ms=1000");
        assert_eq!((reply.status, reply.text()), (200, "Hello World"));
        assert_eq!(server.figure("/deferred/pending"), 1);
        // It waits without a core.
        assert_eq!(server.figure("/cores/busy"), 0);
        server.wait_for_figure("/deferred/done", 1);
        let lines: Vec<String> = (0..10).map(|k| format!("guest: {k}:{}\n", k + 1)).collect();
        server.wait_for_line("deferred id=1 ");
        assert!(server.log().contains(&lines.concat()));
        assert!(logged(&server, "waited_ns")[0] >= 1_000_000_000);
    }
}

#[test]
fn requests_go_on_while_a_thousand_calls_wait_and_calls_while_requests_come() {
    let server = reader("", "--cores 1");
    for _ in 0..1000 {
        assert_eq!(server.get("/?delay-ms=3000").status, 200);
    }
    // The first may be due by now on a slow machine; the last are not.
    assert!(server.figure("/deferred/pending") > 0);
    let mut connection = Connection::open(server.address);
    let mut answered_between = 0;
    loop {
        let before = server.figure("/deferred/done");
        assert_eq!(connection.get("/cancel/0").status, 200);
        let after = server.figure("/deferred/done");
        if before > 0 && after < 1000 {
            answered_between += 1;
        }
        if after == 1000 {
            break;
        }
    }
    // The calls run for long enough to fit more than one request between them.
    assert!(answered_between > 1, "{answered_between}");
}

#[test]
fn calls_start_by_due_time_and_never_early() {
    let server = faults("--cores 2 --log-deferred");
    let mut connection = Connection::open(server.address);
    for delay in [400, 200, 300, 200, 0, 100] {
        assert_eq!(connection.get(&format!("/later/{delay}/count")).status, 200);
    }
    server.wait_for_figure("/deferred/done", 6);
    wait_for("six lines", || (logged(&server, "due").len() == 6).then_some(()));
    let (due, started) = (logged(&server, "due"), logged(&server, "started"));
    assert!(started.iter().zip(&due).all(|(started, due)| started >= due));
    let mut by_start: Vec<(u64, u64)> = started.into_iter().zip(due).collect();
    by_start.sort();
    assert!(by_start.is_sorted_by_key(|(_, due)| *due), "{by_start:?}");
}

#[test]
fn calls_due_at_once_start_in_order_on_idle_cores() {
    let server = faults("--cores 8 --log-deferred");
    assert_eq!(server.get("/many/50/20").status, 200);
    server.wait_for_figure("/deferred/done", 50);
    wait_for("fifty lines", || (logged(&server, "id").len() == 50).then_some(()));
    let (id, started) = (logged(&server, "id"), logged(&server, "started"));
    let mut by_start: Vec<(u64, u64)> = started.into_iter().zip(id).collect();
    by_start.sort();
    assert!(by_start.is_sorted_by_key(|(_, id)| *id), "{by_start:?}");
}

#[test]
fn cancel_is_true_if_and_only_if_the_call_never_runs() {
    let server = faults("--cores 2");
    let id = server.get("/later/200000/never").text().to_owned();
    let cancel = |id: &str| server.get(&format!("/cancel/{id}")).text().to_owned();
    assert_eq!(cancel(&id), "true");
    assert_eq!(cancel(&id), "false");
    assert_eq!(cancel("999"), "false");
    let id = server.get("/later/0/once").text().to_owned();
    server.wait_for_line("once");
    assert_eq!(cancel(&id), "false");
    assert_eq!(server.figure("/deferred/cancelled"), 1);
    assert!(!server.stop().log.contains("never\n"));
}

#[test]
fn a_call_stands_although_its_guest_call_fails() {
    let server = faults("--harakiri 1");
    assert_eq!(server.get("/later-then-trap/10/after-trap").status, 500);
    server.wait_for_line("after-trap");
    assert_eq!(server.get("/later-then-spin/10/after-spin").status, 504);
    server.wait_for_line("after-spin");
}

#[test]
fn every_limit_is_an_error_that_the_guest_handles() {
    let server =
        faults("--deferred-pending 5 --deferred-per-call 3 --deferred-delay 60 --deferred-payload 1K");
    assert_eq!(server.get("/payload/2000").text(), "payload-too-large 1024");
    assert_eq!(server.get("/delay/18446744073709551615/x").text(), "delay-too-long 60000000000");
    assert_eq!(server.get("/many/4/50000").text(), "too-many-pending 3");
    assert_eq!(server.get("/many/2/50000").status, 200);
    assert_eq!(server.get("/later/50000/x").text(), "too-many-pending 5");
    assert_eq!(server.figure("/deferred/pending"), 5);
    assert_eq!(server.figure("/deferred/refused"), 4);
    let server = faults("--deferred-memory 4");
    let refused = server.get("/later/50000/12345");
    assert!(refused.text().starts_with("unavailable "), "{}", refused.text());
    assert_eq!(server.get("/later/50000/1234").status, 200);
}

#[test]
fn a_million_calls_may_be_pending() {
    let server = faults("--deferred-per-call 1000000");
    let before = server.resident_bytes();
    assert_eq!(server.get("/many/1000000/3000000").status, 200);
    assert_eq!(server.figure("/deferred/pending"), 1_000_000);
    let bytes_each = (server.resident_bytes() - before) / 1_000_000;
    assert!(bytes_each <= 155 + "count".len() as u64, "{bytes_each} bytes each");
    assert_eq!(server.get("/later/0/x").text(), "too-many-pending 1000000");
    assert_eq!(server.get("/cancel/500000").text(), "true");
}

#[test]
fn a_callback_that_fails_is_logged_and_counted_and_not_repeated() {
    let server = faults("--cores 2 --deferred-timeout 0.5 --log-deferred");
    for (number, how) in ["trap", "error", "spin", "wait"].into_iter().enumerate() {
        assert_eq!(server.get(&format!("/later/0/{how}")).status, 200);
        server.wait_for_figure("/deferred/failed", number as u64 + 1);
    }
    for (id, why) in [(1, "trapped"), (2, "error: no"), (3, "took too long"), (4, "took too long")] {
        let line = server.wait_for_line(&format!("deferred call {id} "));
        assert!(line.contains(why), "{line}");
        assert!(server.wait_for_line(&format!("deferred id={id} ")).ends_with("outcome=failed"));
    }
    assert_eq!(server.figure("/instances_created"), 8);
    assert_eq!(server.get("/cancel/0").status, 200);
}

#[test]
fn ten_thousand_due_at_once_do_not_starve_requests() {
    let server = faults("--cores 1 --max-requests 0 --deferred-per-call 10000 --log-deferred");
    let clients = Clients::start(&server, 4);
    assert_eq!(server.get("/many/10000/1000").status, 200);
    server.wait_for_figure("/deferred/done", 10_000);
    clients.stop();
    let between = requests_between_calls(&server.stop().log);
    assert!(between > 10, "requests waited until nearly all calls had run");
}

#[test]
fn due_calls_have_their_share_under_a_flood_of_requests() {
    // Where cores are scarce, and where none ever is.
    for cores in ["--cores 1", "--cores 64"] {
        let server = faults(&format!("{cores} --max-requests 0 --log-deferred"));
        let clients = Clients::start(&server, 8);
        assert_eq!(server.get("/many/1000/0").status, 200);
        server.wait_for_figure("/deferred/done", 1000);
        clients.stop();
        let between = requests_between_calls(&server.stop().log);
        assert!(between < 2000, "{between} requests were served while 1000 calls were due, with {cores}");
    }
}

/// Requests of `Clients` between the first and the last line of a deferred call.
fn requests_between_calls(log: &str) -> usize {
    let lines: Vec<&str> = log.lines().collect();
    let is_call = |line: &&str| line.starts_with("deferred id=");
    let first = lines.iter().position(is_call).expect("a call ran");
    let last = lines.iter().rposition(is_call).expect("a call ran");
    lines[first..last].iter().filter(|line| line.contains("GET /cancel/0")).count()
}

/// Clients that ask without a pause until they are stopped.
struct Clients {
    is_stopping: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(server: &Server, count: usize) -> Clients {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let client = || {
            let (address, is_stopping) = (server.address, is_stopping.clone());
            std::thread::spawn(move || {
                let mut connection = Connection::open(address);
                while !is_stopping.load(Ordering::Relaxed) {
                    assert_eq!(connection.get("/cancel/0").status, 200);
                }
            })
        };
        Clients { threads: (0..count).map(|_| client()).collect(), is_stopping }
    }

    fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("every answer was right"));
    }
}

#[test]
fn a_callback_that_schedules_itself_for_ever_is_held_by_quotas() {
    for text in ["again", "double"] {
        let server = faults("--cores 2 --max-requests 0 --deferred-pending 100");
        assert_eq!(server.get(&format!("/later/0/{text}")).status, 200);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            assert_eq!(server.get("/cancel/0").status, 200);
        }
        assert!(server.figure("/deferred/pending") <= 100);
        assert!(server.figure("/deferred/done") > 10);
    }
}

#[test]
fn a_callback_is_one_use_of_an_instance() {
    let server = faults("--cores 1 --max-requests 2");
    for _ in 0..3 {
        assert_eq!(server.get("/later/0/count").status, 200);
        // One after the other, so that it is known which call has which use.
        server.wait_for_figure("/deferred/pending", 0);
        server.wait_for_figure("/cores/busy", 0);
    }
    assert_eq!(server.figure("/instances_created"), 3);
}
