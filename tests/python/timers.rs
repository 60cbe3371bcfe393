use std::collections::BTreeSet;

use super::file;
use crate::support::server::setup_python;
use crate::support::wait_for;

#[test]
fn each_kind_of_callback_runs_and_each_refusal_says_why() {
    // In the instance that served the request, and in a fresh one.
    for max_requests in [0, 1] {
        let server = setup_python(file("applications/timers.py"))
            .options(&format!("--cores 2 --log-deferred --max-requests {max_requests}"))
            .start();
        let reply = server.get("/path");
        assert_eq!(reply.status, 200);
        let said: Vec<&str> = reply.text().lines().collect();
        let rows: [&[&str]; 10] = [
            &["one loop: True"],
            &["cancelled: True, when: 0.2"],
            &["asyncio.run: [1, 2]"],
            &["run_until_complete: [1, 2]"],
            &["TypeError: ", "cannot be pickled", "pass names and values"],
            &["ValueError: ", "65536 bytes", "--deferred-payload"],
            &["OverflowError: ", "--deferred-delay"],
            &["NotImplementedError: ", "threads and processes", "call_later"],
            &["NotImplementedError: ", "a task cannot outlive its request", "call_later"],
            &["NotImplementedError: ", "sockets"],
        ];
        assert_eq!(said.len(), rows.len(), "{said:#?}");
        for (line, texts) in said.iter().zip(rows) {
            assert!(texts.iter().all(|text| line.contains(text)), "{line:?} has not all of {texts:?}");
        }
        server.wait_for_figure("/deferred/done", 10);
        server.wait_for_figure("/deferred/failed", 1);
        assert_eq!(server.figure("/deferred/cancelled"), 1);
        assert_eq!(server.figure("/deferred/pending"), 0);
        for line in [
            "ran call_later 1",
            "ran call_at",
            "ran call_soon",
            "ran partial",
            "paid me 5",
            "ran lambda",
            "ran closure /path",
            "again 2",
            "again 1",
            "again 0",
        ] {
            server.wait_for_line(line);
        }
        let log = server.stop().log;
        assert!(!log.contains("a cancelled call"), "{log}");
    }
}

#[test]
fn no_callback_runs_early_and_each_runs_once() {
    let server = setup_python(file("applications/timers.py")).options("--cores 2 --log-deferred").start();
    for _ in 0..20 {
        assert_eq!(server.get("/").status, 200);
    }
    server.wait_for_figure("/deferred/done", 200);
    server.wait_for_figure("/deferred/failed", 20);
    let log = wait_for("a line for each call", || {
        let log = server.log();
        (log.lines().filter(|line| line.starts_with("deferred id=")).count() == 220).then_some(log)
    });
    let mut ids = BTreeSet::new();
    for line in log.lines().filter(|line| line.starts_with("deferred id=")) {
        let number = |name: &str| -> u64 {
            let value = line.split(&format!("{name}=")).nth(1).and_then(|rest| rest.split(' ').next());
            value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        assert!(number("started") >= number("due"), "{line}");
        assert!(ids.insert(number("id")), "{line}");
    }
    for text in ["ran call_later 1\n", "ran closure /\n", "again 0\n", "paid me 5\n"] {
        assert_eq!(log.matches(text).count(), 20, "{text:?}");
    }
}

#[test]
fn a_callback_that_fails_leaves_its_traceback() {
    let server = setup_python(file("applications/timers.py"))
        .options("--cores 2 --log-verbatim --log-deferred")
        .start();
    assert_eq!(server.get("/").status, 200);
    server.wait_for_figure("/deferred/failed", 1);
    let line = server.wait_for_line("error: ValueError: in the callback");
    assert!(line.contains("deferred call "), "{line}");
    let log = server.log();
    let (_, traceback) = log.split_once("Traceback (most recent call last):\n").expect("a traceback");
    // The line of the file and its text come first, so the adapter shows nothing of itself.
    assert!(traceback.trim_start().starts_with("File \""), "{traceback}");
    let first = traceback.lines().next().unwrap();
    assert!(first.contains("timers.py\", line ") && first.ends_with("in fail"), "{first}");
    assert!(traceback.contains("raise ValueError(\"in the callback\")"), "{traceback}");
    // Counted first, then told.
    server.wait_for_line("outcome=failed");
    // The instance in which it failed serves on.
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn calls_start_in_the_order_of_their_times_however_long_each_took_to_schedule() {
    // A request holds the only core, so that all of them are scheduled when the first one starts.
    let server = setup_python(file("applications/timers.py")).options("--cores 1").start();
    let reply = server.get("/in-order");
    assert_eq!(reply.text().lines().collect::<Vec<_>>(), ["when: True"; 6]);
    server.wait_for_figure("/deferred/done", 6);
    let log = server.stop().log;
    let order: Vec<&str> = log.lines().filter_map(|line| line.split("ran in order ").nth(1)).collect();
    assert_eq!(order, ["1 quick", "5 quick", "0 slow", "4 quick", "2 quick", "3 quick"]);
}

#[test]
fn the_exception_handler_that_is_set_gets_what_a_callback_raises() {
    let server = setup_python(file("applications/timers.py")).options("--cores 1 --log-deferred").start();
    assert_eq!(server.get("/handles").text(), "scheduled");
    let line = server.wait_for_line("handled ValueError('in the callback') True");
    assert!(line.contains("Exception in callback <function fail"), "{line}");
    // It is a failure nevertheless, and has no traceback besides.
    server.wait_for_figure("/deferred/failed", 1);
    server.wait_for_line("outcome=failed");
    assert!(!server.log().contains("Traceback"), "{}", server.log());
}

#[test]
fn times_and_callables_that_are_none_are_refused_as_documented() {
    let server = setup_python(file("applications/timers.py")).options("--cores 1").start();
    let reply = server.get("/refuses");
    let lines: Vec<&str> = reply.text().lines().collect();
    let rows = [("OverflowError: the delay is over ", 4), ("ValueError: ", 2), ("TypeError: ", 5)];
    let expected: Vec<&str> = rows.iter().flat_map(|(text, count)| vec![*text; *count]).collect();
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, text) in lines.iter().zip(expected) {
        assert!(line.starts_with(text), "{line:?} is not {text:?}");
    }
    assert_eq!(lines.iter().filter(|line| line.contains("coroutines cannot be deferred")).count(), 3);
    server.wait_for_line("ran what was due long ago");
}

#[test]
fn more_calls_than_allowed_raise_and_name_the_option() {
    let server =
        setup_python(file("applications/timers.py")).options("--cores 1 --deferred-per-call 3").start();
    assert_eq!(server.get("/").status, 500);
    let line = server.wait_for_line("RuntimeError: 3 calls");
    assert!(line.contains("--deferred-per-call"), "{line}");
    // Those that were accepted stand.
    server.wait_for_figure("/deferred/done", 3);
}
