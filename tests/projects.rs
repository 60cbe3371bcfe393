use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::Connection;
use crate::support::server::{Server, bare_program, setup_dev};
use crate::support::{Folder, fault_guests, guest, wait_for};

/// A project whose script takes the guest from a file beside it.
struct Project(Folder);

impl Project {
    fn new(guest: &[u8]) -> Project {
        let project = Project(Folder::new());
        project.build_by("cp guest.wasm \"$1\"");
        project.save(guest);
        project
    }

    /// Gives it a script that ends with the first command that fails.
    fn build_by(&self, commands: &str) {
        let script = self.0.join("build");
        fs::write(&script, format!("#!/bin/sh\nset -e\n{commands}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// As an editor saves: under another name first.
    fn save(&self, guest: &[u8]) {
        let unfinished = self.0.join(".guest.wasm");
        fs::write(&unfinished, guest).unwrap();
        fs::rename(unfinished, self.0.join("guest.wasm")).unwrap();
    }
}

fn hello() -> Vec<u8> {
    fs::read(guest("hello")).unwrap()
}

/// Another guest that does the same: one with a custom section more.
fn other_hello() -> Vec<u8> {
    [&hello()[..], b"\x00\x02\x01x"].concat()
}

fn swaps(server: &Server) -> u64 {
    server.figure("/swaps/done")
}

#[test]
fn nothing_is_built_again_without_a_change() {
    let project = Project::new(&hello());
    fs::create_dir(project.0.join("target")).unwrap();
    project.build_by("cp guest.wasm \"$1\"\necho >> target/builds");
    let server = setup_dev(&project.0.0).start();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(fs::read_to_string(project.0.join("target/builds")).unwrap(), "\n");
    assert_eq!(swaps(&server), 0);
}

#[test]
fn a_hundred_swaps_under_load_fail_no_request() {
    let project = Project::new(&hello());
    let server = setup_dev(&project.0.0).options("--cores 4").start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(server.address);
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let reply = connection.get("/");
                        assert_eq!((reply.status, reply.text(), reply.complete), (200, "Hello World", true));
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for number in 1..=100 {
            project.save(&if number % 2 == 0 { hello() } else { other_hello() });
            wait_for("a swap", || {
                (swaps(&server) >= number || clients.iter().any(|c| c.is_finished())).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    assert_eq!(server.figure("/swaps/refused"), 0);
}

#[test]
fn the_old_guest_is_served_on_while_the_new_one_cannot_be_built() {
    let project = Project::new(&hello());
    let server = setup_dev(&project.0.0).start();
    fs::rename(project.0.join("guest.wasm"), project.0.join("gone.wasm")).unwrap();
    wait_for("the build to fail", || server.said("The build failed").then_some(()));
    assert_eq!(server.get("/").text(), "Hello World");
    // A guest that cannot be served is refused by the server.
    project.save(b"nonsense");
    server.wait_for_figure("/swaps/refused", 1);
    assert_eq!(server.get("/").text(), "Hello World");
    let other = fs::read(fault_guests::component("faults")).unwrap();
    project.save(&other);
    server.wait_for_figure("/swaps/done", 1);
    assert_eq!(server.get("/count").text(), "1");
    // As version control does it on the way from one branch to another.
    let elsewhere = Folder::new();
    fs::rename(project.0.join("build"), elsewhere.join("build")).unwrap();
    wait_for("the script to be missed", || server.said("has no script `build`").then_some(()));
    project.save(&hello());
    fs::rename(elsewhere.join("build"), project.0.join("build")).unwrap();
    wait_for("a swap", || (swaps(&server) >= 2).then_some(()));
    assert_eq!(server.get("/").text(), "Hello World");
}

#[test]
fn files_in_new_folders_are_watched_and_those_that_were_built_are_not() {
    let project = Project::new(&hello());
    let server = setup_dev(&project.0.0).start();
    let sources = project.0.join("src/deep");
    fs::create_dir_all(&sources).unwrap();
    wait_for("a swap", || (swaps(&server) >= 1).then_some(()));
    // Events of the folders themselves may come in more than one lot.
    let mut number = 0;
    let mut save = |path: PathBuf| {
        number += 1;
        fs::write(path, format!("{number}")).unwrap();
    };
    wait_for("a swap for a file in it", || {
        let before = swaps(&server);
        save(sources.join("app.c"));
        thread::sleep(Duration::from_millis(500));
        (swaps(&server) > before).then_some(())
    });
    fs::create_dir(project.0.join("target")).unwrap();
    // A swap for what was changed before may still come; but not each time.
    let is_left_alone = (0..20).any(|_| {
        thread::sleep(Duration::from_millis(500));
        let before = swaps(&server);
        save(project.0.join("target/app.o"));
        save(project.0.join(".app.c.swp"));
        fs::create_dir(project.0.join("node_modules")).unwrap();
        fs::remove_dir(project.0.join("node_modules")).unwrap();
        thread::sleep(Duration::from_millis(500));
        swaps(&server) == before
    });
    assert!(is_left_alone);
}

#[test]
fn what_a_failed_build_left_is_never_served() {
    let project = Project::new(&hello());
    let script =
        "#!/bin/sh\n[ -e fail ] && cp guest.wasm \"$1\" && exit 1\n[ -e nothing ] || cp guest.wasm \"$1\"\n";
    fs::write(project.0.join("build"), script).unwrap();
    let server = setup_dev(&project.0.0).start();
    fs::write(project.0.join("fail"), "").unwrap();
    wait_for("the build to fail", || server.said("The build failed: exit status: 1").then_some(()));
    fs::rename(project.0.join("fail"), project.0.join("nothing")).unwrap();
    wait_for("the next one", || server.said("it made no file").then_some(()));
    assert_eq!(swaps(&server), 0);
    let made = bare_program().arg("build").arg(&project.0.0).output().unwrap();
    assert_eq!(made.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&made.stderr).contains("made no file"));
    assert!(!project.0.join("app.wasm").exists());
}

#[test]
fn a_build_that_changes_its_folder_does_not_go_on_for_ever() {
    let project = Project::new(&hello());
    project.build_by("date +%N > generated.txt\ncp guest.wasm \"$1\"");
    let server = setup_dev(&project.0.0).start();
    wait_for("the end of it", || server.said("changes with each build; waiting").then_some(()));
    let before = swaps(&server);
    project.save(&other_hello());
    wait_for("a swap", || (swaps(&server) > before).then_some(()));
}

/// `dev`, as long as the test asks for lines.
struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Dev {
    fn start(project: &Project) -> Dev {
        Dev::start_at(project, "127.0.0.1:0")
    }

    fn start_at(project: &Project, address: &str) -> Dev {
        let mut dev = bare_program();
        dev.current_dir(&project.0.0).args(["dev", ".", "--http-socket", address]);
        let mut child = dev.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Dev { child, lines }
    }

    fn wait_for_line(&mut self, text: &str) {
        assert!(self.lines.any(|line| line.unwrap().contains(text)), "it ended without {text:?}");
    }

    fn stop(mut self) {
        kill(&["-TERM", &self.child.id().to_string()]);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its server ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(arguments: &[&str]) {
    assert!(Command::new("kill").args(arguments).status().unwrap().success());
}

/// Builds of a project that take as long as the test says.
struct Builds(PathBuf);

impl Builds {
    /// The guest is taken at the beginning.
    fn of(project: &Project) -> Builds {
        // It is not watched.
        let folder = project.0.join("target");
        fs::create_dir(&folder).unwrap();
        project.build_by(
            "cp guest.wasm \"$1\"\n: > target/begun\n\
            until rm target/end 2>/dev/null; do sleep 0.02; done\n[ ! -e target/fails ]",
        );
        Builds(folder)
    }

    fn wait_for_begin(&self) {
        wait_for("a build to begin", || fs::remove_file(self.0.join("begun")).ok());
    }

    fn end(&self) {
        fs::write(self.0.join("end"), "").unwrap();
    }

    fn are_to_fail(&self, fails: bool) {
        let flag = self.0.join("fails");
        if fails { fs::write(flag, "").unwrap() } else { fs::remove_file(flag).unwrap() }
    }

    fn wait_for_one(&self) {
        self.wait_for_begin();
        self.end();
    }
}

#[test]
fn whatever_changes_during_builds_is_built() {
    let project = Project::new(&hello());
    let builds = Builds::of(&project);
    let mut dev = Dev::start(&project);
    builds.are_to_fail(true);
    for number in 0..4 {
        builds.wait_for_begin();
        project.save(&[&hello()[..], b"\x00\x02\x01", &[b'A' + number]].concat());
        builds.end();
        dev.wait_for_line("The build failed: exit status: 1");
    }
    builds.are_to_fail(false);
    for number in 0..6 {
        builds.wait_for_begin();
        project.save(&[&hello()[..], b"\x00\x02\x01", &[b'a' + number]].concat());
        builds.end();
    }
    builds.wait_for_one();
    dev.wait_for_line("Serving HTTP on");
    dev.stop();
}

#[test]
fn a_change_is_not_lost_with_the_end_of_the_server() {
    let project = Project::new(b"nonsense");
    let builds = Builds::of(&project);
    let mut dev = Dev::start(&project);
    builds.wait_for_begin();
    project.save(&hello());
    builds.end();
    builds.wait_for_one();
    dev.wait_for_line("Serving HTTP on");
    dev.stop();
}

#[test]
fn a_build_ends_with_dev() {
    let project = Project::new(&hello());
    fs::create_dir(project.0.join("target")).unwrap();
    project.build_by("sleep 1000 &\necho $! > target/pid\nmv target/pid target/begun\nwait");
    let dev = Dev::start(&project);
    let pid = wait_for("the build to begin", || fs::read_to_string(project.0.join("target/begun")).ok());
    dev.stop();
    let is_there = || Path::new("/proc").join(pid.trim()).join("exe").exists();
    wait_for("its processes to end", || (!is_there()).then_some(()));
}

#[test]
fn what_was_built_is_served_though_the_server_was_killed() {
    let project = Project::new(&hello());
    let builds = Builds::of(&project);
    let mut dev = Dev::start(&project);
    builds.wait_for_one();
    dev.wait_for_line("Serving HTTP on");
    project.save(&other_hello());
    builds.wait_for_begin();
    let pid = dev.child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_server = |child: &&str| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.starts_with("wasm-serve"))
    };
    kill(&["-KILL", children.split_whitespace().find(is_server).unwrap()]);
    builds.end();
    dev.wait_for_line("Serving HTTP on");
    dev.stop();
}

#[test]
fn a_first_guest_that_cannot_be_served_is_waited_for() {
    let project = Project::new(b"nonsense");
    let mut dev = Dev::start(&project);
    dev.wait_for_line("waiting for a change");
    project.save(&hello());
    dev.wait_for_line("Serving HTTP on");
    fs::rename(project.0.join("build"), project.0.join(".build")).unwrap();
    dev.wait_for_line("has no script `build`");
    dev.stop();
}

#[test]
fn an_address_that_is_taken_is_told_before_anything_is_built() {
    let project = Project::new(&hello());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let twice = format!("unix:{}", project.0.join(".socket").display());
    for (http, stats, option) in [
        (&*taken, "127.0.0.1:0", "--http-socket"),
        ("127.0.0.1:0", &*taken, "--stats"),
        (&*twice, &*twice, "--stats"),
    ] {
        let mut dev = bare_program();
        dev.arg("dev").arg(&project.0.0).args(["--http-socket", http, "--stats", stats]);
        let output = dev.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let address = if option == "--stats" { stats } else { http };
        assert!(said.contains(&format!("{option}: cannot listen on {address}")), "{said}");
        assert!(!said.contains("Building"), "{said}");
    }
}

#[test]
fn an_address_that_others_took_during_the_build_ends_it() {
    let project = Project::new(&hello());
    let builds = Builds::of(&project);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut dev = Dev::start_at(&project, &address.to_string());
    builds.wait_for_begin();
    let _taken = TcpListener::bind(address).unwrap();
    builds.end();
    dev.wait_for_line(&format!("--http-socket: cannot listen on {address}"));
    assert_eq!(dev.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_lock_that_a_build_writes_is_no_change_and_one_that_is_changed_later_is() {
    let project = Project::new(&hello());
    fs::create_dir(project.0.join("target")).unwrap();
    project.build_by("date +%N > Cargo.lock\ncp guest.wasm \"$1\"\necho >> target/builds");
    let server = setup_dev(&project.0.0).start();
    let builds = || fs::read_to_string(project.0.join("target/builds")).unwrap().len();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(builds(), 1);
    fs::write(project.0.join("Cargo.lock"), "by hand").unwrap();
    server.wait_for_figure("/swaps/done", 1);
    assert_eq!(builds(), 2);
}

const COUNTS: &str = "\
COUNT = 0
def application(environ, start_response):
    global COUNT
    COUNT += 1
    with open('data.txt') as file:
        said = f'{COUNT} {file.read()}'
    try:
        open('more.txt', 'w').close()
        said += ' writes'
    except OSError:
        said += ' reads only'
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [said.encode()]
";

#[test]
fn a_python_project_has_warm_instances_and_its_folder_unless_options_say_otherwise() {
    let project = Project(Folder::new());
    project.build_by("exec \"$WASM_SERVE\" build --wsgi-file app.py --output \"$1\"");
    fs::write(project.0.join("app.py"), COUNTS).unwrap();
    fs::write(project.0.join("data.txt"), "data").unwrap();
    let server = setup_dev(&project.0.0).options("--cores 1").start();
    for count in 1..=3 {
        assert_eq!(server.get("/").text(), format!("{count} data reads only"));
    }
    let said = server.earlier_lines.join("\n");
    assert!(said.contains("--max-requests 1 gives each its own") && said.contains("--dir changes"), "{said}");
    drop(server);
    let other = Folder::new();
    fs::write(other.join("data.txt"), "other").unwrap();
    let server = setup_dev(&project.0.0).options("--cores 1 --max-requests 1").dir(&other.0).start();
    for _ in 0..2 {
        assert_eq!(server.get("/").text(), "1 other writes");
    }
}

#[test]
fn dev_stops_its_server_as_a_server_stops() {
    let project = Project::new(&hello());
    let server = setup_dev(&project.0.0).start();
    let address = server.address;
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = Folder::new();
    let said = |arguments: &[&str]| {
        let output = bare_program().args(arguments).current_dir(&folder.0).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    fs::write(folder.join("a"), "").unwrap();
    for (arguments, code, text) in [
        (&["new", "--lang", "c", "."] as &[&str], 1, "is not empty"),
        (&["new", "--lang", "cobol", "x"], 64, "cobol"),
        (&["build", "."], 1, "no script `build`"),
        (&["dev", "."], 1, "no script `build`"),
        (&["dev", ".", "--guest", "other.wasm"], 64, "--guest"),
        (&["dev", ".", "--cores", "none"], 64, "--cores"),
        (&["build", "--wsgi-file", "a"], 64, "--output"),
        (&["componentize", "a", "-o", "b"], 1, "not WebAssembly"),
        (&["componentize", "a", "-o", "none/b"], 64, "no such folder"),
    ] {
        let (ended, line) = said(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {line}");
        assert!(line.contains(text), "{arguments:?}: {line}");
    }
}
