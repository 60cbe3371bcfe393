use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::client::{Connection, get};
use crate::support::server::{Server, setup_python};
use crate::support::{Folder, root, wait_for};

/// A server for `tests/fixtures/databases.py` that may write to `folder`.
fn databases(folder: &Folder, options: &str) -> Server {
    let fixture = root().join("tests/fixtures/databases.py");
    setup_python(fixture).dir(&folder.0).options(options).start()
}

/// What SQLite outside says.
fn outside(script: &str, database: &Path) -> String {
    let script = format!("import sqlite3, sys\nd = sqlite3.connect(sys.argv[1], timeout=0)\n{script}");
    let output = Command::new("python3").arg("-c").arg(script).arg(database).output();
    let output = output.expect("python3 can be started");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn check(database: &Path) {
    let checked = outside("print(d.execute('PRAGMA integrity_check').fetchone()[0])", database);
    assert_eq!(checked, "ok\n", "{}", database.display());
}

/// Begins a call that does not end by itself, and waits until it has changed the database.
fn begin(address: SocketAddr, path: &str) -> Connection {
    let mut connection = Connection::open(address);
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert_eq!(connection.head().expect("a response").status, 200, "{path}");
    let mut body = Vec::new();
    connection.chunk(&mut body).expect("a chunk");
    assert_eq!(body, b"begun", "{path}");
    connection
}

/// The server learns of it at once, as it would from a client that ended in the middle.
fn leave(connection: Connection) {
    let socket = socket2::SockRef::from(&connection.socket);
    socket.set_linger(Some(Duration::ZERO)).expect("TCP");
}

/// Ends calls in each way in which one of them can be ended, and writes to it after each. By
/// `hasty`, on another server, calls have little time, and some do `late` when that is over.
fn end_calls(address: SocketAddr, hasty: SocketAddr, late: &str, database: &str, rounds: usize) {
    let by_deadline = || while begin(hasty, &format!("/{late}/{database}")).chunk(&mut Vec::new()).is_ok() {};
    let ways: [&dyn Fn(); 9] = [
        &|| leave(begin(address, &format!("/writes/{database}"))),
        &|| leave(begin(address, &format!("/waits/{database}"))),
        &|| assert_eq!(get(address, &format!("/exits/{database}")).status, 500),
        &|| assert_eq!(get(address, &format!("/aborts/{database}")).status, 500),
        &|| leave(begin(address, &format!("/writes/{database}"))),
        &|| leave(begin(address, &format!("/waits/{database}"))),
        &|| leave(begin(address, &format!("/sends/{database}"))),
        &|| assert_eq!(get(address, &format!("/exits/{database}")).status, 500),
        &|| assert_eq!(get(address, &format!("/aborts/{database}")).status, 500),
    ];
    for done in 1..=rounds {
        match done % 50 {
            0 => by_deadline(),
            _ => ways[done % ways.len()](),
        }
        let reply = get(address, &format!("/adds/{database}"));
        assert_eq!(reply.text(), format!("0 begun, {done} done"));
    }
}

#[test]
fn a_call_that_is_ended_in_a_transaction_leaves_no_lock() {
    let folder = Folder::new();
    // Who waits for a lock gives up long before the time to close is over.
    let server = databases(&folder, "--cores 8 --harakiri 600 --close-timeout 300");
    let hasty = databases(&folder, "--cores 8 --harakiri 2");
    thread::scope(|scope| {
        for number in 0..4 {
            let (address, hasty) = (server.address, hasty.address);
            let late = ["writes", "waits"][number % 2];
            scope.spawn(move || end_calls(address, hasty, late, &format!("{number}.db"), 200));
        }
    });
    for log in [server.stop().log, hasty.stop().log] {
        assert!(!log.contains("database is locked"), "{log}");
    }
    for number in 0..4 {
        check(&folder.join(&format!("{number}.db")));
    }
}

#[test]
fn an_application_that_holds_a_lock_learns_that_its_client_has_left() {
    let folder = Folder::new();
    let server = databases(&folder, "--cores 2");
    // A tenth of a second may be too short on a busy machine.
    wait_for("an application that has closed in time", || {
        leave(begin(server.address, "/sends/a.db"));
        assert_eq!(server.get("/adds/a.db").status, 200);
        std::fs::exists(folder.join("closed")).expect("the folder can be read").then_some(())
    });
}

#[test]
fn a_server_that_is_killed_in_a_transaction_leaves_no_lock() {
    let folder = Folder::new();
    for round in 0..10 {
        let server = databases(&folder, "--cores 24");
        let under_way: Vec<_> = (0..20)
            .map(|number| {
                let reply = server.get(&format!("/adds/{number}.db"));
                assert_eq!(reply.text(), format!("0 begun, {} done", round + 1));
                begin(server.address, &format!("/{}/{number}.db", ["writes", "waits"][number % 2]))
            })
            .collect();
        server.signal("KILL");
        server.wait();
        drop(under_way);
        check(&folder.join(&format!("{}.db", round * 2)));
    }
}

#[test]
fn a_guest_and_a_process_outside_exclude_each_other() {
    let folder = Folder::new();
    let server = databases(&folder, "--cores 2 --max-requests 1");
    let path = folder.join("a.db");
    assert_eq!(server.get("/adds/a.db").text(), "0 begun, 1 done");

    let under_way = begin(server.address, "/waits/a.db");
    assert!(!folder.join("a.db.lock").exists());
    for script in ["d.execute('SELECT * FROM entries')", "d.execute('BEGIN IMMEDIATE')"] {
        let refused = outside(script, &path);
        assert!(refused.contains("database is locked"), "{refused}");
    }
    assert_eq!(server.get("/tries/a.db").text(), "database is locked");
    let seen = server.get("/looks/a.db");
    assert_eq!(seen.text(), "[True, True, False, 'FileExistsError', 'OSError']");
    leave(under_way);
    wait_for("the lock", || (server.get("/tries/a.db").text() == "free").then_some(()));
    assert_eq!(server.get("/looks/a.db").text(), "[False, False, False]");

    for script in
        ["d.execute('BEGIN IMMEDIATE')", "d.execute('BEGIN'); d.execute('SELECT * FROM entries').fetchone()"]
    {
        let ask = format!(
            "{script}\nimport urllib.request\nprint(urllib.request.urlopen('http://{}/tries/a.db').read())",
            server.address
        );
        assert_eq!(outside(&ask, &path), "b'database is locked'\n", "{script}");
        assert_eq!(server.get("/tries/a.db").text(), "free");
    }
    check(&path);
}

/// As it would in a process that serves one request after the other.
#[test]
fn a_lock_that_an_application_keeps_lasts_until_it_ends_it() {
    let folder = Folder::new();
    let server = databases(&folder, "--cores 1");
    assert_eq!(server.get("/keeps/a.db").text(), "kept");
    let refused = outside("d.execute('BEGIN IMMEDIATE')", &folder.join("a.db"));
    assert!(refused.contains("database is locked"), "{refused}");
    assert_eq!(server.get("/ends/a.db").text(), "ended");
    assert_eq!(server.get("/adds/a.db").text(), "20 begun, 1 done");
    check(&folder.join("a.db"));
}

#[test]
fn a_folder_that_was_left_as_a_lock_is_removed_when_it_is_old() {
    let folder = Folder::new();
    let server = databases(&folder, "--cores 1");
    assert_eq!(server.get("/adds/a.db").text(), "0 begun, 1 done");
    let lock = folder.join("a.db.lock");
    std::fs::create_dir(&lock).expect("the folder can be made");
    assert_eq!(server.get("/tries/a.db").text(), "database is locked");
    let old = SystemTime::now() - Duration::from_secs(3600);
    let opened = std::fs::File::open(&lock).expect("it is there");
    opened.set_modified(old).expect("its time can be set");
    assert_eq!(server.get("/adds/a.db").text(), "0 begun, 2 done");
    assert!(!lock.exists());
    server.wait_for_line("the folder a.db.lock was removed");
}
