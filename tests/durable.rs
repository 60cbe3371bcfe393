use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{self, Connection};
use crate::support::server::{Server, bare_program, setup, setup_python};
use crate::support::{Folder, fault_guests, guest, root, wait_for};

/// A server whose calls are in the file.
fn serve(file: &Path, options: &str) -> Server {
    setup(fault_guests::component("deferred-faults")).options(&stored(file, options)).start()
}

fn stored(file: &Path, options: &str) -> String {
    // A server that was killed holds its calls no longer than is needed here.
    let file = file.display();
    format!(
        "--deferred-store sqlite:{file} --deferred-lease 1 --deferred-queue tests --log-deferred {options}"
    )
}

fn kill(server: Server) -> String {
    server.signal("KILL");
    server.wait().log
}

/// `wasm-serve calls`, with what else there is to say.
fn calls(file: &Path, arguments: &[&str]) -> Output {
    let mut program = bare_program();
    program.arg("calls").arg("--deferred-store").arg(format!("sqlite:{}", file.display()));
    program.args(arguments).stdout(Stdio::piped()).output().expect("it can be run")
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the log's lines on deferred calls say: the id, the attempt, when it was due and when it started.
fn runs(log: &str) -> Vec<[u64; 4]> {
    let lines = log.lines().filter(|line| line.starts_with("deferred id="));
    let value = |line: &str, name: &str| -> u64 {
        line.split(&format!("{name}=")).nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    lines.map(|line| ["id", " attempt", " due", " started"].map(|name| value(line, name))).collect()
}

#[test]
fn calls_outlive_a_server_that_is_killed_and_none_is_lost_twice_or_early() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let (mut acknowledged, mut runs_of) = (BTreeMap::new(), BTreeMap::<u64, Vec<u64>>::new());
    let mut kills = Vec::new();
    for round in 0..6 {
        let server = serve(&file, "--cores 4");
        let mut connection = Connection::open(server.address);
        for number in 0..60 {
            // Some are due while it lives, some when it is killed, some later.
            let delay = Duration::from_millis(number * 20);
            let reply = connection.get(&format!("/later/{}/count", delay.as_millis()));
            acknowledged.insert(reply.text().parse::<u64>().expect("an id"), Instant::now() + delay);
        }
        std::thread::sleep(Duration::from_millis(50 + 83 * round));
        let log = kill(server);
        kills.push(Instant::now());
        for [id, attempt, due, started] in runs(&log) {
            runs_of.entry(id).or_default().push(attempt);
            assert!(started >= due, "{id} has started early");
        }
    }
    let server = serve(&file, "--cores 4");
    server.wait_for_figure("/deferred/pending", 0);
    for [id, attempt, due, started] in runs(&server.stop().log) {
        runs_of.entry(id).or_default().push(attempt);
        assert!(started >= due, "{id} has started early");
    }
    assert_eq!(acknowledged.len(), 360);
    for (id, due) in acknowledged {
        let Some(attempts) = runs_of.get(&id) else {
            // It has run, and the server was killed before it could write its line.
            let is_recent = |kill: &&Instant| due <= **kill && **kill - due < Duration::from_secs(1);
            assert!(kills.iter().any(|kill| is_recent(&kill)), "{id} has not run");
            continue;
        };
        assert!(attempts.windows(2).all(|two| two[0] < two[1]), "{id} has run twice as one: {attempts:?}");
    }
}

#[test]
fn a_call_that_fails_runs_again_and_is_set_aside_at_last_with_its_error() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let server = serve(&file, "--cores 2 --deferred-attempts 3 --deferred-retry-delay 0.01");
    for (how, error) in [("error", "error: no"), ("trap", "trapped")] {
        let id = server.get(&format!("/later/0/{how}")).text().to_owned();
        wait_for("it to be set aside", || {
            let shown = told(&calls(&file, &["show", &id]));
            (shown.contains("set aside") && shown.contains(error)).then_some(())
        });
    }
    server.wait_for_figure("/deferred/set_aside", 2);
    server.wait_for_line("deferred call 2 is set aside after 3 runs");
    assert_eq!(server.figure("/deferred/failed"), 6);
    server.wait_for_figure("/deferred/retried", 4);
    server.wait_for_figure("/deferred/pending", 0);
    let list: Vec<Value> = told(&calls(&file, &["list", "--set-aside", "--json"]))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(list.len(), 2);
    assert!(list.iter().all(|call| call["attempts"] == 3 && call["state"] == "set aside"), "{list:?}");
    // By hand they run again, from the first attempt on.
    assert_eq!(told(&calls(&file, &["retry", "--all-failed"])), "2 run again\n");
    server.wait_for_figure("/deferred/failed", 12);
    server.wait_for_figure("/deferred/set_aside", 2);
    assert_eq!(told(&calls(&file, &["purge"])), "2 removed\n");
    assert_eq!(told(&calls(&file, &["list"])).lines().count(), 1, "the head alone");
    let log = server.stop().log;
    let attempts: Vec<u64> = runs(&log).iter().filter(|run| run[0] == 1).map(|run| run[1]).collect();
    assert_eq!(attempts, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_call_that_ends_its_server_is_set_aside_too() {
    let folder = Folder::new();
    let file = folder.join("calls");
    for round in 0..2 {
        let server = serve(&file, "--cores 1 --deferred-attempts 2");
        if round == 0 {
            assert_eq!(server.get("/later/0/spin").text(), "1");
        }
        server.wait_for_figure("/deferred/running", 1);
        kill(server);
    }
    let server = serve(&file, "--cores 1 --deferred-attempts 2");
    server.wait_for_figure("/deferred/set_aside", 1);
    let shown = told(&calls(&file, &["show", "1"]));
    assert!(shown.contains("the server ended while it had it"), "{shown}");
    assert_eq!(server.figure("/deferred/running"), 0);
}

#[test]
fn a_stop_leaves_the_rest_in_the_store_and_is_no_failed_attempt() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let server = serve(&file, "--cores 1 --grace 1 --deferred-timeout 60");
    assert_eq!(server.get("/later/100/ok").text(), "1");
    assert_eq!(server.get("/later/2500/later-line").text(), "2");
    let ended = server.stop();
    assert!(ended.log.contains("ran ok"), "what is due within the grace runs: {}", ended.log);
    assert!(ended.log.contains("1 deferred calls stay in their store"), "{}", ended.log);
    assert!(!ended.log.contains("dropped"), "{}", ended.log);
    // One that is cut off by a second signal.
    let server = serve(&file, "--cores 2 --deferred-timeout 60");
    assert_eq!(server.get("/later/0/wait").text(), "3");
    server.wait_for_figure("/deferred/running", 1);
    server.signal("TERM");
    server.wait_for_line("stopping: ");
    server.signal("TERM");
    server.wait();
    let shown: Value = serde_json::from_str(&told(&calls(&file, &["show", "3", "--json"]))).unwrap();
    assert_eq!((&shown["attempts"], &shown["state"]), (&0.into(), &"waiting".into()), "{shown}");
    assert_eq!(told(&calls(&file, &["cancel", "3"])), "1 cancelled\n");
    let server = serve(&file, "--cores 1");
    server.wait_for_figure("/deferred/pending", 0);
    assert!(server.stop().log.contains("later-line"));
}

#[test]
fn servers_that_share_a_file_run_each_call_once() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let servers = [(); 2].map(|()| serve(&file, "--cores 2"));
    let mut connection = Connection::open(servers[0].address);
    for _ in 0..100 {
        // Long enough for both to have some.
        assert_eq!(connection.get("/later/1000/sleep").status, 200);
    }
    let other = serve(&file, "--cores 1 --deferred-queue another");
    servers[0].wait_for_figure("/deferred/pending", 0);
    let logs = servers.map(|server| runs(&server.stop().log));
    assert!(logs.iter().all(|runs| !runs.is_empty()), "one had none");
    let ids: Vec<u64> = logs.iter().flatten().map(|run| run[0]).collect();
    assert_eq!(ids.len(), 100);
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), 100);
    assert!(runs(&other.stop().log).is_empty(), "another queue's are not its own");
}

#[test]
fn a_call_is_cancelled_until_a_server_has_it() {
    let folder = Folder::new();
    let server = serve(&folder.join("calls"), "--cores 2");
    assert_eq!(server.get("/later/60000/x").text(), "1");
    assert_eq!(server.get("/cancel/1").text(), "true");
    assert_eq!(server.get("/cancel/1").text(), "false");
    assert_eq!(server.get("/cancel/18446744073709551615").text(), "false");
    assert_eq!(server.get("/later/0/sleep").text(), "2");
    server.wait_for_figure("/deferred/running", 1);
    assert_eq!(server.get("/cancel/2").text(), "false");
    server.wait_for_figure("/deferred/done", 1);
    server.wait_for_figure("/deferred/pending", 0);
}

#[test]
fn limits_are_errors_as_they_are_in_memory() {
    let folder = Folder::new();
    let server = serve(
        &folder.join("calls"),
        "--cores 1 --deferred-pending 2 --deferred-payload 10 --deferred-delay 100 --deferred-memory 15",
    );
    assert_eq!(server.get("/later/1000/01234567890").text(), "payload-too-large 10");
    assert_eq!(server.get("/later/100001/x").text(), "delay-too-long 100000000000");
    assert_eq!(server.get("/later/90000/0123456789").text(), "1");
    assert!(server.get("/later/90000/0123456789").text().starts_with("unavailable"));
    assert_eq!(server.get("/later/90000/x").text(), "2");
    assert_eq!(server.get("/later/90000/x").text(), "too-many-pending 2");
}

#[test]
fn a_store_that_does_not_answer_is_an_error_and_serving_goes_on() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let server = serve(&file, "--cores 8");
    assert_eq!(server.get("/later/60000/before").text(), "1");
    // Somebody else writes, and does not end it.
    let holds = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); \
        c.execute('BEGIN IMMEDIATE'); print('holds', flush=True); sys.stdin.read()";
    let mut holder = Command::new("python3");
    holder.args(["-c", holds]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("python3 is there");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "holds\n");
    let answers = std::thread::scope(|scope| {
        let address = server.address;
        let ask = move || client::get(address, "/later/0/refused").text().to_owned();
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        // Others are served meanwhile.
        assert_eq!(server.get("/hello").status, 200);
        waiting.into_iter().map(|answer| answer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(answers.iter().all(|answer| answer.starts_with("unavailable")), "{answers:?}");
    server.wait_for_line("the store of deferred calls cannot be used");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    // By itself it goes on.
    server.wait_for_line("the store of deferred calls can be used again");
    let id = server.get("/later/0/afterwards").text().to_owned();
    assert!(id.parse::<u64>().is_ok(), "{id}");
    server.wait_for_line("guest: afterwards");
    assert!(!server.log().contains("guest: refused"), "what was refused has not run");
}

#[test]
fn what_is_no_store_of_ours_is_refused_at_the_start_and_stays_as_it_is() {
    let folder = Folder::new();
    let others = folder.join("others");
    let made = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE t (x)')";
    assert!(Command::new("python3").args(["-c", made]).arg(&others).status().unwrap().success());
    let later = folder.join("later");
    let made = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
        c.execute('PRAGMA application_id = 2002875245'); c.execute('PRAGMA user_version = 99')";
    assert!(Command::new("python3").args(["-c", made]).arg(&later).status().unwrap().success());
    std::fs::write(folder.join("text"), "this is no database, but a text").unwrap();
    let rows = [
        (others.clone(), "a database of something else"),
        (later, "of another version"),
        (folder.join("text"), "not a database"),
        (folder.join("none/calls"), "No such file"),
    ];
    for (file, why) in rows {
        let before = std::fs::read(&file).ok();
        let mut program = bare_program();
        program.arg("--guest").arg(fault_guests::component("deferred-faults"));
        program.args(["--http-socket", "127.0.0.1:0", "--deferred-store"]);
        let output = program.arg(format!("sqlite:{}", file.display())).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--deferred-store") && said.contains(why), "{said}");
        assert!(std::fs::read(&file).ok() == before, "{} has changed", file.display());
    }
    let refused = calls(&others, &["list"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no store of deferred calls"));
}

#[test]
fn no_folder_with_the_store_may_be_written_by_a_guest() {
    let folder = Folder::new();
    let mut program = bare_program();
    program.arg("--guest").arg(fault_guests::component("deferred-faults"));
    program.arg("--dir").arg(&folder.0).arg("--deferred-store");
    let output = program.arg(format!("sqlite:{}", folder.join("calls").display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--deferred-store"), "{said}");
}

/// Of two ways to have no callback: a guest that has none, and a server that does not come to serve.
#[test]
fn who_cannot_run_calls_takes_none() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let server = serve(&file, "--cores 1");
    assert_eq!(server.get("/later/300/ok").text(), "1");
    kill(server);
    let without = setup(guest("hello")).options(&stored(&file, "--cores 1")).start();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(without.get("/").text(), "Hello World");
    assert_eq!(without.figure("/deferred/pending"), 1);
    let mut program = bare_program();
    program.arg("--guest").arg(fault_guests::component("core-module"));
    program.args(stored(&file, "--cores 1 --http-socket 127.0.0.1:0").split(' '));
    assert_eq!(program.output().unwrap().status.code(), Some(1));
    let shown: Value = serde_json::from_str(&told(&calls(&file, &["show", "1", "--json"]))).unwrap();
    assert_eq!((&shown["attempts"], &shown["state"]), (&0.into(), &"waiting".into()), "{shown}");
    // A guest that has one takes its place.
    let server = serve(&file, "--cores 1");
    server.wait_for_line("guest: ran ok");
    server.wait_for_figure("/deferred/pending", 0);
}

#[test]
fn a_guest_with_another_name_is_told_of_the_calls_of_the_one_before() {
    let folder = Folder::new();
    let store = format!("--cores 1 --deferred-store sqlite:{}", folder.join("calls").display());
    let serve = || setup(fault_guests::component("deferred-faults")).options(&store).start();
    let server = serve();
    assert_eq!(server.get("/later/60000/x").text(), "1");
    server.stop();
    let server = setup(guest("deferred")).dir(&root().join("guests/rust/numbers")).options(&store).start();
    server
        .wait_for_line("1 deferred calls are in the queue deferred-faults, and this server is for deferred");
    assert_eq!(server.figure("/deferred/pending"), 0);
    server.stop();
    assert!(!serve().said("are in the queue"), "they are its own");
}

/// By default a Python application sees its current folder.
#[test]
fn a_guest_that_can_read_the_store_or_a_secret_is_told_of() {
    let folder = Folder::new();
    let secret = folder.join("secret");
    std::fs::write(&secret, "x").unwrap();
    let store = format!("--cores 1 --deferred-store sqlite:{}", folder.join("calls").display());
    let serve = |dir: &Path| {
        let setup = setup(guest("deferred")).options(&store);
        setup
            .option("--secret", format!("a={}", secret.display()))
            .option("--dir", format!("{}::ro", dir.display()))
            .start()
    };
    let server = serve(&folder.0);
    for name in ["--deferred-store", "--secret"] {
        server.wait_for_line(&format!("the guest can read {name} "));
    }
    server.stop();
    let server = serve(&root().join("guests/rust/numbers"));
    server.get("/");
    assert!(!server.stop().log.contains("the guest can read"));
}

#[test]
fn nobody_else_may_read_what_the_payloads_say() {
    let folder = Folder::new();
    let server = serve(&folder.join("calls"), "--cores 1");
    assert_eq!(server.get("/later/60000/secret").text(), "1");
    for name in ["calls", "calls-wal", "calls-shm"] {
        let mode = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// Components, programs and Python applications: each way to schedule goes to the store.
#[test]
fn each_gateway_schedules_in_the_store() {
    let folder = Folder::new();
    let file = folder.join("calls");
    let serve_python = || {
        let app = setup_python(root().join("guests/python/nonblocking.py"));
        app.options(&stored(&file, "--cores 1 --dir .::ro")).start()
    };
    let server = serve_python();
    assert_eq!(server.get("/").text(), "Hello World");
    kill(server);
    let server = serve_python();
    server.wait_for_figure("/deferred/done", 1);
    server.wait_for_line("guest: 9:10");
    server.stop();
    let serve = || setup(fault_guests::component("program")).options(&stored(&file, "--cores 1")).start();
    let server = serve();
    let reply = Connection::open(server.address).post("/later", b"of a program");
    assert!(reply.text().parse::<u64>().is_ok(), "{}", reply.text());
    kill(server);
    let server = serve();
    server.wait_for_line("deferred of a program");
    server.wait_for_figure("/deferred/pending", 0);
    drop(server);
    for component in ["deferred", "deferred-0.3"] {
        let numbers = root().join("guests/rust/numbers");
        let serve = || setup(guest(component)).dir(&numbers).options(&stored(&file, "--cores 1")).start();
        let server = serve();
        assert_eq!(server.get("/?delay-ms=1000").text(), "Hello World");
        kill(server);
        let server = serve();
        server.wait_for_line("guest: 9:10");
        server.wait_for_figure("/deferred/pending", 0);
    }
}
