use super::{faults, file, numbered_lines};
use crate::support::client::Connection;
use crate::support::server::{Server, setup_python};
use crate::support::wait_for;

#[test]
fn the_blocking_file_runs_as_it_is() {
    let server =
        setup_python(file("blocking.py")).options("--cores 2 --log-verbatim --disable-logging").start();
    let mut connection = Connection::open(server.address);
    for _ in 0..20 {
        assert_hello(&mut connection);
    }
    let log = wait_for_lines(&server, 200);
    assert_eq!(log, numbered_lines().repeat(20));
}

#[test]
fn the_nonblocking_file_runs_as_it_is_and_reads_five_seconds_later() {
    let server = setup_python(file("nonblocking.py"))
        .options("--cores 2 --log-verbatim --disable-logging --log-deferred")
        .start();
    let mut connection = Connection::open(server.address);
    for _ in 0..20 {
        assert_hello(&mut connection);
    }
    server.wait_for_figure("/deferred/done", 20);
    let log = wait_for_lines(&server, 220);
    let (calls, printed): (Vec<&str>, Vec<&str>) =
        log.lines().partition(|line| line.starts_with("deferred id="));
    // Both cores may print at once, whole lines at a time.
    let mut printed: Vec<String> = printed.into_iter().map(|line| format!("{line}\n")).collect();
    printed.sort();
    let mut expected: Vec<String> =
        numbered_lines().repeat(20).split_inclusive('\n').map(str::to_owned).collect();
    expected.sort();
    assert_eq!(printed, expected);
    for line in calls {
        let waited =
            line.split("waited_ns=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(waited.is_some_and(|waited| waited >= 5_000_000_000), "{line}");
        assert!(line.ends_with("outcome=done"), "{line}");
    }
}

#[test]
fn with_an_instance_for_each_call_both_files_do_the_same() {
    let server = setup_python(file("blocking.py"))
        .options("--cores 2 --max-requests 1 --log-verbatim --disable-logging")
        .start();
    let mut connection = Connection::open(server.address);
    for _ in 0..5 {
        assert_hello(&mut connection);
    }
    assert_eq!(wait_for_lines(&server, 50), numbered_lines().repeat(5));
    assert_eq!(server.figure("/instances_created"), 5);
    let server = setup_python(file("nonblocking.py"))
        .options("--cores 2 --max-requests 1 --log-verbatim --disable-logging")
        .start();
    assert_hello(&mut Connection::open(server.address));
    server.wait_for_figure("/deferred/done", 1);
    assert_eq!(wait_for_lines(&server, 10), numbered_lines());
    assert_eq!(server.figure("/instances_created"), 2);
}

#[test]
fn warm_instances_answer_each_of_thousands_and_need_no_more_memory_for_more() {
    const MEBIBYTE: u64 = 1 << 20;
    let server = faults("--cores 1");
    let mut connection = Connection::open(server.address);
    let mut memory = Vec::new();
    for thousand in 0..3 {
        for number in 1..=1000 {
            let reply = connection.get("/count");
            assert_eq!((reply.status, reply.text()), (200, &*(thousand * 1000 + number).to_string()));
        }
        memory.push(server.resident_bytes());
    }
    server.wait_for_figure("/requests/answered/2xx", 3000);
    assert_eq!(server.figure("/instances_created"), 1);
    assert_eq!(server.figure("/connections/accepted"), 1);
    assert!(memory[2] < memory[1] + 4 * MEBIBYTE, "{memory:?}");
}

/// componentize-py's runtime never frees a list of bytes that is passed to the host.
#[test]
fn what_leaves_a_warm_instance_takes_none_of_its_memory() {
    let server = faults("--cores 1 --memory-limit 48M");
    let mut connection = Connection::open(server.address);
    for path in ["/leaves-whole", "/leaves-in-pieces", "/leaves-as-a-header", "/leaves-as-a-payload"] {
        for _ in 0..1000 {
            assert_eq!(connection.get(&format!("{path}/60000")).status, 200, "{path}");
        }
        assert_eq!(server.figure("/instances_created"), 1, "{path}");
    }
}

fn assert_hello(connection: &mut Connection) {
    let reply = connection.get("/");
    assert_eq!((reply.status, reply.text(), reply.complete), (200, "Hello World", true));
    assert_eq!(reply.field("content-type"), Some("text/html"));
}

/// The log, when it has so many lines.
fn wait_for_lines(server: &Server, count: usize) -> String {
    wait_for(&format!("{count} lines"), || {
        let log = server.log();
        (log.matches('\n').count() >= count).then_some(log)
    })
}
