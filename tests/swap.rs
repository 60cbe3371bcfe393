use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::Connection;
use crate::support::server::{Server, Setup, program, setup, setup_python};
use crate::support::{Folder, child_of, fault_guests, guest, root, wait_for};

/// A guest's file that other guests are put in place of.
struct Served {
    folder: Folder,
    file: PathBuf,
}

impl Served {
    fn new(guest: &Path) -> Served {
        let folder = Folder::new();
        let served = Served { file: folder.join("served.wasm"), folder };
        served.put(guest);
        served
    }

    /// As a whole: a swap that is under way reads the old file or the new one.
    fn put(&self, guest: &Path) {
        let unfinished = self.folder.join("unfinished");
        fs::copy(guest, &unfinished).unwrap();
        fs::rename(&unfinished, &self.file).unwrap();
    }

    fn setup(&self, options: &str) -> Setup {
        setup(&self.file).options(options)
    }
}

fn faults() -> PathBuf {
    fault_guests::component("faults")
}

fn deferred_faults() -> PathBuf {
    fault_guests::component("deferred-faults")
}

/// Puts a guest in place, and waits until it is served.
fn swap(server: &Server, served: &Served, guest: &Path) {
    served.put(guest);
    swap_again(server);
}

fn swap_again(server: &Server) {
    let done = server.figure("/swaps/done");
    server.signal("HUP");
    server.wait_for_figure("/swaps/done", done + 1);
}

/// Asks for a swap that is refused, and gives the line of the log that says why.
fn refused(server: &Server) -> String {
    let refused = server.figure("/swaps/refused");
    server.signal("HUP");
    server.wait_for_figure("/swaps/refused", refused + 1);
    let line = wait_for("the line", || {
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains("did not swap the guest"));
        lines.nth(refused as usize).map(str::to_owned)
    });
    assert!(line.contains("the old one stays"), "{line}");
    line
}

/// How many files of compiled code the server has in its memory.
fn codes(server: &Server) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
    let mut files: Vec<&str> = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    files.retain(|file| file.ends_with(".cwasm"));
    files.sort();
    files.dedup();
    files.len()
}

/// The log of the `deferred` guests' callback.
fn numbers() -> String {
    (0..10).map(|k| format!("guest: {k}:{}\n", k + 1)).collect()
}

#[test]
fn a_swap_changes_the_answer_on_every_core_and_connection() {
    let served = Served::new(&guest("hello"));
    let server = served.setup("--cores 4 --threads 2 --max-requests 0").start();
    let mut connections: Vec<_> = (0..8).map(|_| Connection::open(server.address)).collect();
    for connection in &mut connections {
        assert_eq!(connection.get("/count").text(), "Hello World");
    }
    swap(&server, &served, &deferred_faults());
    for connection in &mut connections {
        assert_eq!(connection.get("/cancel/1").text(), "false");
    }
    // To another version of WASI, and with it to an engine of another kind.
    swap(&server, &served, &guest("hello-0.3"));
    for connection in &mut connections {
        assert_eq!(connection.get("/cancel/1").text(), "Hello World");
    }
    assert!(server.wait_for_line("swapped the guest, in ").ends_with(" ms"));
}

#[test]
fn no_instance_outlives_its_guest() {
    let served = Served::new(&faults());
    let server = served.setup("--cores 1 --max-requests 0").start();
    assert_eq!(server.get("/count").text(), "1");
    assert_eq!(server.get("/count").text(), "2");
    // Also if the new guest is the same.
    swap_again(&server);
    assert_eq!(server.get("/count").text(), "1");
    // What no call takes is dropped soon, and the code with it.
    swap(&server, &served, &guest("hello"));
    wait_for("the old code to go", || (codes(&server) == 1).then_some(()));
    assert_eq!(server.get("/count").text(), "Hello World");
}

#[test]
fn a_request_under_way_ends_in_the_old_guest() {
    let served = Served::new(&faults());
    let server = served.setup("--cores 2 --max-requests 0").start();
    let mut under_way = Connection::open(server.address);
    under_way.send("POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfir");
    server.wait_for_figure("/cores/busy", 1);
    swap(&server, &served, &guest("hello"));
    assert_eq!(server.get("/count").text(), "Hello World");
    assert_eq!(codes(&server), 2);
    under_way.send("st");
    assert_eq!(under_way.reply().text(), "5");
    assert_eq!(under_way.get("/count").text(), "Hello World");
    wait_for("the old code to go", || (codes(&server) == 1).then_some(()));
}

#[test]
fn deadlines_hold_in_the_old_guest_and_in_the_new_one() {
    let served = Served::new(&faults());
    let server = served.setup("--cores 2 --threads 1 --harakiri 2").start();
    let mut spinning = Connection::open(server.address);
    spinning.send("GET /spin HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    swap(&server, &served, &guest("hello"));
    assert_eq!(server.get("/").text(), "Hello World");
    assert_eq!(spinning.reply().status, 504);
    swap(&server, &served, &faults());
    assert_eq!(server.get("/spin").status, 504);
}

#[test]
fn calls_that_are_pending_run_in_the_new_guest() {
    for new in ["deferred", "deferred-0.3"] {
        let served = Served::new(&deferred_faults());
        let setup = served.setup("--cores 1 --harakiri 600 --max-requests 0");
        let server = setup.dir(&root().join("guests/rust/numbers")).start();
        // Due at once, but the only core stays taken.
        let mut holding = Connection::open(server.address);
        holding.send("GET /later-then-wait/0/numbers.txt HTTP/1.1\r\nHost: a\r\n\r\n");
        server.wait_for_figure("/deferred/pending", 1);
        swap(&server, &served, &guest(new));
        assert_eq!(server.figure("/deferred/pending"), 1);
        drop(holding);
        server.wait_for_figure("/deferred/done", 1);
        wait_for("the lines", || server.log().contains(&numbers()).then_some(()));
        // The old guest would have printed its payload.
        assert!(!server.log().contains("numbers.txt\n"), "{}", server.log());
    }
}

#[test]
fn what_cannot_be_loaded_is_refused_and_the_old_guest_stays() {
    let served = Served::new(&faults());
    let server = served.setup("--cores 1 --max-requests 0").start();
    assert_eq!(server.get("/count").text(), "1");
    let truncated = served.folder.join("truncated");
    let whole = fs::read(guest("hello")).unwrap();
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let rows = [
        (truncated, "not valid WebAssembly"),
        (root().join("README.md"), "is not WebAssembly"),
        (fault_guests::component("wrong-world"), "exports neither"),
        (fault_guests::component("unknown-import"), "example:unknown/thing"),
        (fault_guests::component("timers-without-callback"), "exports no callback"),
    ];
    for (file, says) in rows {
        served.put(&file);
        let line = refused(&server);
        assert!(line.contains(says) && line.contains("--guest "), "{line}");
    }
    fs::remove_file(&served.file).unwrap();
    let line = refused(&server);
    assert!(line.contains("cannot be read"), "{line}");
    // It is the same instance.
    assert_eq!(server.get("/count").text(), "2");
    swap(&server, &served, &guest("hello"));
    assert_eq!(server.get("/count").text(), "Hello World");
}

#[test]
fn calls_that_are_pending_go_to_no_program_that_expects_none() {
    let served = Served::new(&fault_guests::component("program"));
    let server = served.setup("--cores 2").start();
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.post("/later", b"from before").text(), "1");
    served.put(&fault_guests::component("program-0.2"));
    let line = refused(&server);
    assert!(line.contains("no callback, and 1 deferred calls are pending"), "{line}");
    server.wait_for_line("deferred from before");
    server.wait_for_figure("/deferred/done", 1);
    swap_again(&server);
    assert_eq!(server.get("/teapot").status, 418);
}

#[test]
fn a_guest_without_a_callback_is_refused_while_calls_are_pending() {
    let served = Served::new(&deferred_faults());
    let server = served.setup("").start();
    assert_eq!(server.get("/later/3600000/payload").text(), "1");
    served.put(&guest("hello"));
    let line = refused(&server);
    assert!(line.contains("no callback, and 1 deferred calls are pending"), "{line}");
    assert_eq!(server.get("/cancel/1").text(), "true");
    swap_again(&server);
    assert_eq!(server.get("/cancel/1").text(), "Hello World");
}

#[test]
fn a_call_that_an_old_request_schedules_runs_although_the_new_guest_has_no_callback() {
    let served = Served::new(&deferred_faults());
    let server = served.setup("--cores 2 --max-requests 0").start();
    let mut under_way = Connection::open(server.address);
    let request = "POST /later-than-body/300/late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfir";
    under_way.send(request);
    server.wait_for_figure("/cores/busy", 1);
    swap(&server, &served, &guest("hello"));
    // The old guest stays behind any number of further ones without a callback, and
    // of older ones only it.
    for _ in 0..10 {
        swap_again(&server);
    }
    under_way.send("st");
    assert_eq!(under_way.reply().text(), "1");
    server.wait_for_figure("/deferred/done", 1);
    server.wait_for_line("late");
    assert_eq!(server.get("/cancel/1").text(), "Hello World");
    swap(&server, &served, &guest("deferred"));
    wait_for("the old code to go", || (codes(&server) == 1).then_some(()));
}

#[test]
fn a_hundred_swaps_under_load_fail_no_request_and_keep_no_memory() {
    for options in ["--max-requests 1", "--max-requests 0"] {
        let served = Served::new(&guest("hello"));
        let server = served.setup(&format!("--cores 4 --threads 2 {options}")).start();
        swap_under_load(&server, &served, "hello");
    }
}

#[test]
fn a_hundred_swaps_lose_no_deferred_call() {
    let served = Served::new(&guest("deferred"));
    let setup = served.setup("--cores 4 --threads 2 --max-requests 0");
    let server = setup.dir(&root().join("guests/rust/numbers")).start();
    let answered = swap_under_load(&server, &served, "deferred");
    server.wait_for_figure("/deferred/done", answered);
    assert_eq!(server.figure("/deferred/failed"), 0);
}

/// Swaps a guest for its other version, and back, a hundred times, while clients ask
/// without a pause. It gives how many requests were answered.
fn swap_under_load(server: &Server, served: &Served, name: &str) -> u64 {
    let (address, stop) = (server.address, Arc::new(AtomicBool::new(false)));
    let client = || {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let (mut connection, mut answered) = (Connection::open(address), 0);
            while !stop.load(Ordering::Relaxed) {
                let reply = connection.get("/?delay-ms=1");
                assert_eq!((reply.status, reply.complete), (200, true));
                assert_eq!(reply.text(), "Hello World");
                answered += 1;
            }
            answered
        })
    };
    let clients: Vec<_> = (0..4).map(|_| client()).collect();
    let versions = ["", "-0.3"].map(|version| guest(&format!("{name}{version}")));
    let mut mebibytes = Vec::new();
    for number in 1..=100 {
        swap(server, served, &versions[number % 2]);
        if number % 20 == 0 {
            mebibytes.push(server.resident_bytes() >> 20);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let answered: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answered > 100);
    server.wait_for_figure("/requests/answered/2xx", answered);
    assert_eq!(server.figure("/swaps/done"), 100);
    assert!(mebibytes[4] < mebibytes[0] + 32, "memory after each 20 swaps: {mebibytes:?}");
    answered
}

#[test]
fn a_signal_during_a_swap_brings_one_more_after_it() {
    let served = Served::new(&guest("hello"));
    let server = served.setup("").start();
    for _ in 0..5 {
        for (guest, path, answer) in [(guest("hello"), "/count", "Hello World"), (faults(), "/count", "1")] {
            // Some of these come while an earlier file is loaded.
            for _ in 0..3 {
                served.put(&guest);
                server.signal("HUP");
            }
            wait_for("the last guest", || (server.get(path).text() == answer).then_some(()));
        }
    }
    assert!(server.figure("/swaps/done") <= 30);
    assert_eq!(server.figure("/swaps/refused"), 0);
}

#[test]
fn a_server_that_stops_swaps_no_more() {
    let served = Served::new(&faults());
    let server = served.setup("--cores 1").start();
    let mut under_way = Connection::open(server.address);
    under_way.send("POST /read-body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfir");
    server.wait_for_figure("/cores/busy", 1);
    server.signal("TERM");
    server.wait_for_line("stopping");
    server.signal("HUP");
    server.wait_for_line("SIGHUP: ignored");
    under_way.send("st");
    assert_eq!(under_way.reply().text(), "5");
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0));
    assert!(!ended.log.contains("swap"), "{}", ended.log);
}

#[test]
fn a_python_application_is_built_anew() {
    let application = |answer: &str| {
        format!(
            "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [{answer}]\n"
        )
    };
    let folder = Folder::new();
    let file = folder.join("swapped.py");
    fs::write(&file, application("b'old'")).unwrap();
    let server = setup_python(&file).start();
    assert_eq!(server.get("/").text(), "old");
    fs::write(&file, application("b'new' oops")).unwrap();
    refused(&server);
    wait_for("the reason", || server.log().contains("SyntaxError").then_some(()));
    assert_eq!(server.get("/").text(), "old");
    fs::write(&file, application("b'new'")).unwrap();
    swap_again(&server);
    assert_eq!(server.get("/").text(), "new");
}

/// By default the signal would end it.
#[test]
fn a_signal_while_the_server_starts_does_not_end_it() {
    let folder = Folder::new();
    let mut server = program();
    server.arg("--guest").arg(fault_guests::component("huge")).args(["--http-socket", "127.0.0.1:0"]);
    let mut child = server.arg("--cache").arg(folder.join("cache")).spawn().unwrap();
    // It compiles.
    child_of(child.id());
    let sent = Command::new("kill").arg("-HUP").arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let lines: Vec<_> = lines.take(3).collect();
    assert!(lines.iter().any(|line| line.starts_with("Serving HTTP on")), "{lines:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}
