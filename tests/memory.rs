use crate::support::client::{self, Connection};
use crate::support::server::{Server, setup};
use crate::support::{Folder, fault_guests, wait_for};

const MIB: u64 = 1 << 20;

fn faults(options: &str) -> Server {
    setup(fault_guests::component("faults")).options(options).start()
}

/// A connection that has asked for `path`, and waits.
fn asking(server: &Server, path: &str) -> Connection {
    let mut connection = Connection::open(server.address);
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    connection
}

#[test]
fn what_the_server_holds_for_an_instance_has_a_limit() {
    for (guest, paths) in [
        ("faults", &["/fields-flood", "/small-fields-flood", "/bodies-flood", "/table-grow"][..]),
        ("faults-0.3", &["/fields-flood", "/responses-flood"]),
    ] {
        let server =
            setup(fault_guests::component(guest)).options("--cores 2 --host-memory-limit 8M").start();
        assert_eq!(server.get("/hello").status, 200);
        let before = server.memory_bytes("VmHWM");
        for path in paths {
            let mut attack = asking(&server, path);
            assert_eq!(server.get("/hello").status, 200, "{guest} {path}");
            assert_eq!(attack.reply().status, 500, "{guest} {path}");
        }
        // Half of what is made of small pieces is not counted, see `account`.
        let more = server.memory_bytes("VmHWM") - before;
        assert!(more < 64 * MIB, "{guest}: {more} bytes more");
        server.wait_for_line("--host-memory-limit");
        server.wait_for_figure("/memory_bytes/taken", 0);
    }
}

#[test]
fn an_instance_that_gives_back_what_the_server_held_goes_on() {
    let server = faults("--cores 1 --max-requests 0 --host-memory-limit 1M");
    for _ in 0..200 {
        assert_eq!(server.get("/log-long/100").status, 200);
        assert_eq!(Connection::open(server.address).post("/read-body", &vec![7; 100_000]).text(), "100000");
    }
    assert_eq!(server.figure("/instances_created"), 1);
}

#[test]
fn a_call_waits_for_room_and_is_then_refused() {
    // An instance takes a little over half of that.
    let options = "--cores 2 --memory-total 1M --queue-timeout";
    let server = faults(&format!("{options} 0.3"));
    let mut first = asking(&server, "/sleep/3000");
    server.wait_for_figure("/cores/busy", 1);
    let refused = server.get("/hello");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    assert_eq!(server.figure("/requests/failures/no_room"), 1);
    assert_eq!(first.reply().status, 200);
    let server = faults(&format!("{options} 30"));
    let mut first = asking(&server, "/sleep/500");
    server.wait_for_figure("/cores/busy", 1);
    assert_eq!(server.get("/hello").status, 200);
    assert_eq!(first.reply().status, 200);
}

#[test]
fn a_deferred_call_waits_for_room_and_is_not_lost() {
    let server =
        setup(fault_guests::component("deferred-faults")).options("--cores 2 --memory-total 1M").start();
    assert_eq!(server.get("/later/0/sleep").status, 200);
    assert_eq!(server.get("/later/0/ok").status, 200);
    server.wait_for_figure("/deferred/done", 2);
}

#[test]
fn instances_that_grow_leave_room_for_others() {
    let server = faults("--cores 12 --memory-total 64M --harakiri 20");
    let attacks: Vec<Connection> = (0..8).map(|_| asking(&server, "/grow-and-wait")).collect();
    wait_for("memory to be taken", || (server.figure("/memory_bytes/taken") > 40 * MIB).then_some(()));
    for _ in 0..20 {
        assert_eq!(server.get("/hello").status, 200);
        assert!(server.figure("/memory_bytes/taken") <= 64 * MIB);
    }
    drop(attacks);
    server.wait_for_figure("/memory_bytes/taken", 0);
}

#[test]
fn a_guest_that_fails_for_want_of_room_is_answered_503() {
    let server = faults("--cores 2 --memory-total 16M --memory-limit 64M");
    assert_eq!(server.get("/grow-or-trap").status, 503);
    let server = faults("--cores 2 --memory-total 128M --memory-limit 16M");
    assert_eq!(server.get("/grow-or-trap").status, 500);
}

#[test]
fn idle_instances_end() {
    let server = faults("--cores 8 --max-requests 0 --kept-time 1");
    let burst: Vec<Connection> = (0..8).map(|_| asking(&server, "/sleep/500")).collect();
    assert!(burst.into_iter().all(|mut connection| connection.reply().status == 200));
    assert!(server.figure("/memory_bytes/taken") > 4 * MIB);
    server.wait_for_figure("/memory_bytes/taken", 0);
    assert_eq!(server.get("/count").text(), "1");
}

#[test]
fn idle_instances_make_room_for_a_call() {
    let server = faults("--cores 2 --max-requests 0 --memory-total 1M");
    // Each core has an instance of its own only after the other's is gone.
    let mut first = asking(&server, "/sleep/300");
    server.wait_for_figure("/cores/busy", 1);
    assert_eq!(server.get("/count").text(), "1");
    assert_eq!(first.reply().status, 200);
    for _ in 0..10 {
        assert_eq!(server.get("/hello").status, 200);
    }
}

#[test]
fn an_instance_that_grew_too_much_serves_no_further_call() {
    let server = faults("--cores 1 --max-requests 0 --memory-limit 16M --kept-memory 8M");
    assert_eq!(server.get("/count").text(), "1");
    assert_eq!(server.get("/count").text(), "2");
    assert_eq!(server.get("/grow").status, 200);
    assert_eq!(server.get("/count").text(), "1");
}

#[test]
fn under_a_limit_of_addresses_calls_find_room_or_are_refused() {
    // What one thread keeps for later calls, memories or instances, the other one's find.
    for reuse in ["", "--max-requests 0"] {
        let server = setup(fault_guests::component("faults"))
            .options(&format!("--cores 64 --threads 2 --queue-timeout 0.2 {reuse}"))
            .under("ulimit -v 4000000")
            .start();
        let address = server.address;
        let get = || std::thread::spawn(move || client::get(address, "/sleep/1000").status);
        let all: Vec<_> = (0..64).map(|_| get()).collect();
        let statuses: Vec<u16> = all.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
        // The calls have ended, and not only their responses.
        server.wait_for_figure("/cores/busy", 0);
        // More at once than were kept on the cores of one thread.
        let burst: Vec<Connection> = (0..8).map(|_| asking(&server, "/sleep/200")).collect();
        for mut connection in burst {
            assert_eq!(connection.reply().status, 200, "{}", server.log());
        }
        server.signal("HUP");
        server.wait_for_figure("/swaps/done", 1);
        assert_eq!(server.get("/hello").status, 200, "{}", server.log());
    }
}

/// In a control group of the machine's, where the test may make one, else under a limit of
/// addresses.
const GIBIBYTE: &str = "\
    v1=/sys/fs/cgroup/memory/wasm-serve-test-$$ v2=/sys/fs/cgroup/wasm-serve-test-$$
    if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] && mkdir $v1 2>/dev/null; then
        echo 1073741824 >$v1/memory.limit_in_bytes && echo $$ >$v1/cgroup.procs
    elif [ -e /sys/fs/cgroup/cgroup.controllers ] && mkdir $v2 2>/dev/null \
        && echo 1073741824 2>/dev/null >$v2/memory.max && echo $$ 2>/dev/null >$v2/cgroup.procs; then
        :
    else
        ulimit -v 8000000
    fi";

/// Removes the group, which only an empty one can be.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        for folder in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
            let _ = std::fs::remove_dir(format!("{folder}/wasm-serve-test-{}", self.0));
        }
    }
}

#[test]
fn attacks_on_the_memory_end_for_their_own_clients_in_a_gibibyte() {
    for (guest, paths) in [
        (
            "faults",
            &[
                "/fields-flood",
                "/small-fields-flood",
                "/bodies-flood",
                "/grow-or-trap",
                "/grow-and-wait",
                "/table-grow",
                "/header-huge",
                "/header-flood",
                "/resource-flood",
            ][..],
        ),
        ("faults-0.3", &["/fields-flood", "/responses-flood"]),
    ] {
        let server =
            setup(fault_guests::component(guest)).options("--cores 64 --harakiri 3").under(GIBIBYTE).start();
        let _group = Group(server.pid());
        for path in paths {
            let attacks: Vec<Connection> = (0..40).map(|_| asking(&server, path)).collect();
            for _ in 0..3 {
                let bystander = client::open_from([127, 0, 0, 2], server.address).get("/hello");
                assert_eq!(bystander.status, 200, "{guest} {path}");
            }
            for mut attack in attacks {
                let status = attack.reply().status;
                assert!([200, 500, 503, 504].contains(&status), "{guest} {path}: {status}");
            }
        }
        server.wait_for_figure("/memory_bytes/taken", 0);
        assert_eq!(server.stop().status.code(), Some(0));
    }
}

/// A program whose memory is declared so. It grows that by three pages, one by one, looks whether each is
/// empty and what was written before is still there, and answers how often that went well. Then it does
/// what is `last`.
fn grows(folder: &Folder, declared: &str, last: &str) -> std::path::PathBuf {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") {declared})
            (data (i32.const 100) "Status: 200 x\n\n0")
            (func $end (result i32) (i32.mul (memory.size) (i32.const 65536)))
            (func $check (param i32) (if (i32.eqz (local.get 0)) (then (unreachable))))
            (func (export "_start") (local $count i32) (local $new i32)
                (call $check (i32.eqz (i32.load (i32.const 70000))))
                (i32.store (i32.const 70000) (i32.const 7))
                (loop $again
                    (local.set $new (call $end))
                    (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then
                        (call $check (i32.eq (i32.load (i32.const 70000)) (i32.const 7)))
                        (call $check (i32.eqz (i32.load (local.get $new))))
                        (call $check (i32.eqz (i32.load offset=65532 (local.get $new))))
                        (i32.store (local.get $new) (i32.const -1))
                        (i32.store offset=65532 (local.get $new) (i32.const -1))
                        (local.set $count (i32.add (local.get $count) (i32.const 1)))
                        (br_if $again (i32.lt_u (local.get $count) (i32.const 3))))))
                {last}
                (i32.store8 (i32.const 115) (i32.add (i32.const 48) (local.get $count)))
                (i32.store (i32.const 0) (i32.const 100))
                (i32.store (i32.const 4) (i32.const 16))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    );
    let file = folder.join("grows.wasm");
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    file
}

#[test]
fn a_memory_grows_as_it_is_declared_and_is_new_in_each_instance() {
    let folder = Folder::new();
    for (declared, times) in
        [("2", "3"), ("2 100", "3"), ("2 65535", "3"), ("2 65536", "3"), ("2 4", "2"), ("2 2", "0")]
    {
        let server = setup(grows(&folder, declared, "")).options("--cores 2").start();
        for _ in 0..5 {
            let reply = server.get("/");
            assert_eq!((reply.status, reply.text()), (200, times), "{declared}");
        }
        drop(server);
        for beyond in ["(drop (i32.load (call $end)))", "(drop (i32.load8_u offset=40000000 (call $end)))"] {
            let server = setup(grows(&folder, declared, beyond)).options("--cores 2").start();
            assert_eq!(server.get("/").status, 500, "{declared} {beyond}");
            assert_eq!(server.get("/").status, 500, "{declared} {beyond}");
        }
    }
}

/// The memory of an instance may be a file of the system's, and files may have a limit.
#[test]
fn a_limit_of_files_is_none_of_memories_and_does_not_end_the_server() {
    let folder = Folder::new();
    // 512 bytes each.
    let server = setup(grows(&folder, "100", "")).options("--cores 2").under("ulimit -f 8192").start();
    assert_eq!(server.get("/").text(), "3");
    assert_eq!(server.get("/").text(), "3");
}
