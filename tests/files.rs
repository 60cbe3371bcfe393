use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Connection, get};
use crate::support::server::{Server, setup};
use crate::support::{Folder, fault_guests, root};

/// A folder with `file`, an empty one, and `folder` with `names` files.
fn folder(names: usize) -> Folder {
    let folder = Folder::new();
    fs::write(folder.join("file"), "").expect("it can be written");
    fs::create_dir(folder.join("folder")).expect("it can be written");
    for number in 0..names {
        fs::write(folder.join(&format!("folder/name-{number:06}")), "").expect("it can be written");
    }
    folder
}

fn files(guest: &str, folder: &Folder, options: &str) -> Server {
    setup(fault_guests::component(guest)).dir(&folder.0).options(options).start()
}

#[test]
fn an_instance_opens_as_many_files_as_it_may() {
    let folder = folder(0);
    // EMFILE of WASI 0.1; ENOMEM, since 0.2 has no such error.
    for (guest, error) in [("files", 33), ("files-0.2", 48)] {
        let server = files(guest, &folder, "--cores 2 --open-files 50");
        let before = server.open_files();
        for path in ["/o", "/f"] {
            assert_eq!(server.get(path).text(), format!("50 {error} "), "{guest} {path}");
        }
        assert_eq!(server.get("/c").text(), "0 ", "{guest}");
        server.wait_for_line("--open-files: 50 files and sockets are open, one more is refused");
        assert!(server.open_files() < before + 20, "{guest}");
    }
    // `insufficient-memory` is the 21st error of 0.3.
    let server = files("faults-0.3", &folder, "--cores 2 --open-files 50");
    let before = server.open_files();
    for _ in 0..2 {
        assert_eq!(server.get("/open-files").text(), "5021");
    }
    assert!(server.open_files() < before + 20);
}

#[test]
fn all_guests_together_leave_descriptors_to_connections() {
    let folder = folder(0);
    let server = files("files", &folder, "--cores 3 --open-files 9000 --open-files-total 2000");
    let address = server.address;
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || assert!(get(address, "/o").text().ends_with(" 33 ")));
        }
        for _ in 0..100 {
            assert_eq!(get(server.stats_address, "/healthz").status, 200);
            let _open = Connection::open(address);
            assert!(server.open_files() < 2200);
        }
    });
    assert_eq!(server.get("/o").text(), "2000 33 ");
}

#[test]
fn what_the_system_does_not_allow_is_said_at_the_start() {
    let (guest, folder) = (fault_guests::component("files"), folder(0));
    let server = setup(guest).dir(&folder.0).options("--open-files 9000").open_files_max(300).start();
    let said = server.earlier_lines.join("\n");
    for text in
        ["300 files and sockets", "what is left, at most 10000", "lower --connections or --open-files-total"]
    {
        assert!(said.contains(text), "{said}");
    }
    let guests = said.split("guests get ").nth(1).and_then(|rest| rest.split(',').next());
    let guests: usize = guests.and_then(|number| number.parse().ok()).expect("a number");
    assert!((1..150).contains(&guests), "{said}");
    assert_eq!(server.get("/o").text(), format!("{guests} 33 "));
}

/// Also 20,000 names of a folder come once each, by many small pieces.
#[test]
fn a_long_folder_is_listed_in_time() {
    let folder = folder(20_000);
    for guest in ["files", "files-0.2"] {
        let server = files(guest, &folder, "--cores 1 --harakiri 20");
        let names = 2 + 1 + 20_000 * "name-000000".len();
        let expected = format!("4 {} 0 20002 {} 0 ", 1 + 2 + 4 + 6, names);
        assert_eq!(server.get("/l").text(), expected, "{guest}");
    }
    let server = files("faults-0.3", &folder, "--cores 1 --harakiri 20");
    assert_eq!(server.get("/list-folder").text(), "20000");
}

/// As SQLite would, by each interface.
#[test]
fn a_lock_ends_with_its_instance_whatever_the_interface() {
    let folder = folder(0);
    let rows = [
        // EEXIST, a folder, ENOENT.
        ("files", "/k", "/u", "0 20 0 3 0 44 "),
        ("files-0.2", "/k", "/u", "0 20 0 3 0 44 "),
        // `exist` and `no-entry`.
        ("faults-0.3", "/lock-and-spin", "/lock", "6000019"),
    ];
    for (guest, locks_and_spins, locks, expected) in rows {
        let server = files(guest, &folder, "--cores 2 --harakiri 1");
        for _ in 0..3 {
            assert_eq!(server.get(locks).text(), expected, "{guest}");
            let ended = server.get(locks_and_spins);
            assert!(ended.status == 504 || !ended.complete, "{guest}: {ended:?}");
        }
        assert_eq!(server.get(locks).text(), expected, "{guest}");
        assert!(!folder.join("file.lock").exists());
    }
}

#[test]
fn many_random_bytes_leave_time_for_others() {
    let folder = folder(0);
    for guest in ["files", "files-0.2"] {
        let server = files(guest, &folder, "--cores 40 --threads 1 --harakiri 2 --host-memory-limit 128M");
        let address = server.address;
        assert_eq!(server.get("/r").text(), "0 ", "{guest}");
        thread::scope(|scope| {
            for _ in 0..30 {
                scope.spawn(move || {
                    let start = Instant::now();
                    let reply = get(address, "/r");
                    assert!(matches!(reply.status, 200 | 504), "{}", reply.status);
                    // With what is in the way of a test on a busy machine.
                    assert!(start.elapsed() < Duration::from_secs(30));
                });
            }
        });
        assert_eq!(server.get("/c").text(), "0 ", "{guest}");
    }
}

#[test]
fn python_opens_as_many_files_as_it_may() {
    let fixture = root().join("tests/fixtures/databases.py");
    let folder = folder(0);
    let server = crate::support::server::setup_python(fixture).dir(&folder.0).start();
    for _ in 0..2 {
        let reply = server.get("/opens/file");
        let (count, error) = reply.text().split_once(' ').expect("two words");
        assert!((200..=256).contains(&count.parse::<usize>().expect("a number")), "{}", reply.text());
        assert_eq!(error, "[Errno 48] Out of memory");
    }
}
