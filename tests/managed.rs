//! A service manager's place is taken by a socket that shows what the server tells it.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::support::server::setup;
use crate::support::{Folder, fault_guests, guest};

/// What systemd does with `NotifyAccess=main`.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        // Generous: a guest is compiled meanwhile.
        socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        Manager(socket)
    }

    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    fn is_told_nothing_more(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        self.0.recv(&mut [0; 4096]).is_err()
    }
}

/// What `Type=notify-reload` compares.
fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

fn assert_told_of_a_swap(manager: &Manager, asked_at: u64) {
    let told = manager.told();
    assert_eq!(told[0], "RELOADING=1");
    let at: u64 = told[1].strip_prefix("MONOTONIC_USEC=").expect("when").parse().unwrap();
    assert!((asked_at..=monotonic_micros()).contains(&at), "{at}, asked at {asked_at}");
    assert_eq!(manager.told(), ["READY=1"]);
}

#[test]
fn a_service_manager_is_told_of_the_start_each_swap_and_the_stop() {
    let folder = Folder::new();
    let path = folder.join("notify");
    let name = format!("wasm-serve-test-{}", std::process::id());
    let addresses = [
        (path.clone(), SocketAddr::from_pathname(&path).unwrap()),
        (PathBuf::from(format!("@{name}")), SocketAddr::from_abstract_name(&name).unwrap()),
    ];
    for (variable, address) in addresses {
        let manager = Manager::at(&address);
        let served = folder.join("served.wasm");
        fs::copy(guest("hello"), &served).unwrap();
        let server = setup(&served).envs(vec![("NOTIFY_SOCKET", variable)]).start();
        assert_eq!(manager.told(), ["READY=1"]);
        assert_eq!(server.get("/").text(), "Hello World");
        // One that is taken, and one that is refused: the server serves after both.
        for (guest, figure) in [
            (fs::read(fault_guests::component("faults")).unwrap(), "/swaps/done"),
            (b"no guest".to_vec(), "/swaps/refused"),
        ] {
            fs::write(folder.join("unfinished"), guest).unwrap();
            fs::rename(folder.join("unfinished"), &served).unwrap();
            let asked_at = monotonic_micros();
            server.signal("HUP");
            assert_told_of_a_swap(&manager, asked_at);
            assert_eq!(server.figure(figure), 1);
        }
        let ended = server.stop();
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(manager.told(), ["STOPPING=1"]);
        assert!(manager.is_told_nothing_more());
        assert!(!ended.log.contains("service manager"), "{}", ended.log);
    }
}

#[test]
fn a_service_manager_learns_that_it_serves_only_when_it_does() {
    let folder = Folder::new();
    let path = folder.join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let socket = folder.join("http");
    let mut server = crate::support::server::program()
        .env("NOTIFY_SOCKET", &path)
        .arg("--guest")
        .arg(guest("hello"))
        .arg("--http-socket")
        .arg(format!("unix:{}", socket.display()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(manager.told(), ["READY=1"]);
    // No waiting, and no second try.
    let mut connection =
        crate::support::client::Connection::over(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    assert_eq!(connection.get("/").text(), "Hello World");
    server.kill().unwrap();
    server.wait().unwrap();
    // One that could not start has never served.
    let failed = crate::support::server::program()
        .env("NOTIFY_SOCKET", &path)
        .args(["--guest", "Cargo.toml", "--http-socket", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(manager.is_told_nothing_more());
}

#[test]
fn a_service_manager_that_cannot_be_told_is_no_reason_not_to_serve() {
    let folder = Folder::new();
    // One that is gone, one that reads nothing, and what is no address.
    let full = folder.join("full");
    let reads_nothing = Manager::at(&SocketAddr::from_pathname(&full).unwrap());
    // A sender for each: how much one may have sent is bounded, too.
    let sends = || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.send_to(b"x", &full)
    };
    while sends().is_ok() {}
    for address in
        [folder.join("gone"), full.clone(), PathBuf::from("vsock:2:1234"), PathBuf::from("/".repeat(200))]
    {
        let server = setup(guest("hello")).envs(vec![("NOTIFY_SOCKET", address)]).start();
        assert_eq!(server.get("/").text(), "Hello World");
        server.wait_for_line("the service manager");
        assert_eq!(server.stop().status.code(), Some(0));
    }
    drop(reads_nothing);
}
