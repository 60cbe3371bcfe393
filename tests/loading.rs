use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::server::{program, setup};
use crate::support::{Folder, child_of, fault_guests, guest, root, wait_for};

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn what_is_no_file_is_named_and_not_waited_for() {
    let folder = Folder::new();
    pipe(&folder.join("pipe"));
    let pipe = folder.join("pipe");
    let script = root().join("guests/python/blocking.py");
    let rows: [(&[&Path], i32, &str); 6] = [
        (&["--guest".as_ref(), &pipe], 1, "a named pipe"),
        (&["--guest".as_ref(), "/dev/zero".as_ref()], 1, "a device"),
        (&["--guest".as_ref(), &folder.0], 1, "a folder"),
        (&["--wsgi-file".as_ref(), &pipe], 64, "is not a file"),
        (&["--wsgi-file".as_ref(), "/dev/zero".as_ref()], 64, "is not a file"),
        (&["--wsgi-file".as_ref(), &script, "--pythonpath".as_ref(), &pipe], 64, "is not a folder"),
    ];
    for (arguments, code, says) in rows {
        let output = program().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_swap_goes_on_after_what_is_no_file() {
    let folder = Folder::new();
    let file = folder.join("served.wasm");
    fs::copy(guest("hello"), &file).unwrap();
    let server = setup(&file).start();
    for round in 0..2 {
        fs::remove_file(&file).unwrap();
        pipe(&file);
        server.signal("HUP");
        server.wait_for_figure("/swaps/refused", round + 1);
        let line = server.wait_for_line("did not swap the guest");
        assert!(line.contains("a named pipe"), "{line}");
        assert_eq!(server.get("/").text(), "Hello World");
        fs::remove_file(&file).unwrap();
        fs::copy(guest("hello-0.3"), &file).unwrap();
        server.signal("HUP");
        server.wait_for_figure("/swaps/done", round + 1);
        assert_eq!(server.get("/").text(), "Hello World");
    }
}

#[test]
fn compiling_takes_no_more_time_and_memory_than_it_may() {
    let folder = Folder::new();
    let file = folder.join("served.wasm");
    fs::copy(fault_guests::component("huge"), &file).unwrap();
    let limits =
        [("--compile-timeout=0.3", "--compile-timeout"), ("--compile-memory=256M", "--compile-memory")];
    for (limit, says) in limits {
        let output = program()
            .arg("--guest")
            .arg(&file)
            .args([limit, "--http-socket", "127.0.0.1:0"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(says) && !said.contains("panicked"), "{said}");
    }
    fs::copy(guest("hello"), &file).unwrap();
    let server = setup(&file).options("--compile-memory 256M").start();
    let before = server.memory_bytes("VmHWM");
    fs::copy(fault_guests::component("huge"), &file).unwrap();
    server.signal("HUP");
    server.wait_for_figure("/swaps/refused", 1);
    let line = server.wait_for_line("did not swap the guest");
    assert!(line.contains("--compile-memory"), "{line}");
    assert_eq!(server.get("/").text(), "Hello World");
    let more = server.memory_bytes("VmHWM") - before;
    assert!(more < 100 << 20, "{} MiB", more >> 20);
}

#[test]
fn a_server_that_is_killed_takes_what_it_started_with_it() {
    let folder = Folder::new();
    let file = folder.join("served.wasm");
    fs::copy(guest("hello"), &file).unwrap();
    let server = setup(&file).start();
    fs::copy(fault_guests::component("huge"), &file).unwrap();
    server.signal("HUP");
    let child = child_of(server.pid());
    drop(server);
    wait_for("the compiler to end", || {
        let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
}
