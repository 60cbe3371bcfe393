use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::server::{Server, setup};
use crate::support::{Folder, fault_guests, wait_for};

/// What good clients ask for, and get if their guest is the one that is served just then.
const GOOD: [&str; 6] = ["/hello", "/count", "/sleep/20", "/log/3", "/later/30/ok", "/many/20/50"];
/// What breaks something. Every limit is met, and each call ends by itself.
const BAD: [&str; 14] = [
    "/trap",
    "/spin",
    "/wait",
    "/grow-or-trap",
    "/fields-flood",
    "/bodies-flood",
    "/resource-flood",
    "/header-huge",
    "/unfinished-body",
    "/trap-in-body/10",
    "/spin-after-response",
    "/later-then-trap/5/ok",
    "/later-then-spin/5/trap",
    "/later/10/spin",
];
const CLIENTS: usize = 6;

/// What the server has at one time.
#[derive(Debug)]
struct Sample {
    seconds: u64,
    resident_bytes: u64,
    open_files: usize,
    threads: u64,
}

struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Load {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number: usize| {
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut turn = number as u64 * 7;
                while !stop.load(Relaxed) {
                    // Some are pipelined, some are cut, some wait: see `ask`.
                    ask(address, turn);
                    sent.fetch_add(1, Relaxed);
                    turn += 1;
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { stop, sent, clients }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client does not fail"));
        self.sent.load(Relaxed)
    }
}

/// One request, of a kind that the turn says. Whatever comes back is taken.
fn ask(address: SocketAddr, turn: u64) {
    let Ok(mut connection) = std::panic::catch_unwind(|| Connection::open(address)) else { return };
    let _ = connection.socket.set_read_timeout(Some(Duration::from_secs(10)));
    let mut send = |text: &str| connection.socket.write_all(text.as_bytes());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n");
    let good = GOOD[turn as usize / 3 % GOOD.len()];
    let sent = match turn % 16 {
        // A client that leaves at once, or in the middle of a body or of a head.
        0 => return drop(send(&get("/endless-body"))),
        1 => return drop(send("POST /read-body HTTP/1.1\r\nHost: soak\r\nContent-Length: 9\r\n\r\nhalf")),
        2 => return drop(send("GET /hel")),
        // One that breaks the rules.
        3 => send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        4..=6 => send(&get(BAD[turn as usize / 5 % BAD.len()])),
        7 => send("POST /read-body HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        _ => send(&get(good)),
    };
    if sent.is_ok() {
        let _ = connection.try_reply();
    }
}

fn sample(server: &Server, start: Instant) -> Sample {
    Sample {
        seconds: start.elapsed().as_secs(),
        resident_bytes: server.memory_bytes("VmRSS"),
        open_files: server.open_files(),
        threads: server.status_number("Threads"),
    }
}

/// Good and bad clients and guests, deferred calls, and swaps, for some time. Afterwards
/// descriptors and threads are what they were.
fn soak(time: Duration, every: Duration) -> Vec<Sample> {
    let folder = Folder::new();
    let served = folder.join("served.wasm");
    let guests = ["faults", "deferred-faults"].map(fault_guests::component);
    let put = |turn: usize| {
        fs::copy(&guests[turn % 2], folder.join("unfinished")).unwrap();
        fs::rename(folder.join("unfinished"), &served).unwrap();
    };
    put(1);
    let options = "--cores 16 --max-requests 100 --harakiri 0.5 --tail-timeout 0.5 --deferred-timeout 0.5 \
         --memory-limit 32M --host-memory-limit 8M --kept-time 2 --log-rate 100K --log-burst 1M";
    let server = setup(&served).options(options).start();
    assert_eq!(server.get("/hello").status, 200);
    let (start, mut samples) = (Instant::now(), Vec::new());
    let before = sample(&server, start);
    let load = Load::start(server.address);
    let mut turn = 1;
    while start.elapsed() < time {
        std::thread::sleep(every.min(time.saturating_sub(start.elapsed())));
        turn += 1;
        put(turn);
        server.signal("HUP");
        samples.push(sample(&server, start));
        println!("{:?}", samples.last());
    }
    let sent = load.end();
    println!("{sent} requests, {} swaps", server.figure("/swaps/done"));
    assert!(sent > 0);
    wait_for("calls and connections to end", || {
        let is_over = server.figure("/cores/busy") == 0 && server.figure("/connections/open") == 0;
        is_over.then_some(())
    });
    // The guest of the beginning: behind one without a callback, another stays loaded.
    put(1);
    server.signal("HUP");
    let mut now = sample(&server, start);
    let is_back = |now: &Sample| now.open_files <= before.open_files && now.threads <= before.threads;
    let until = Instant::now() + Duration::from_secs(60);
    while !is_back(&now) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
        now = sample(&server, start);
    }
    assert!(is_back(&now), "{before:?}, {now:?}");
    assert_eq!(server.get("/hello").status, 200);
    assert_eq!(server.stop().status.code(), Some(0));
    samples
}

#[test]
fn after_a_storm_all_is_as_before() {
    soak(Duration::from_secs(12), Duration::from_secs(2));
}

/// Run by hand: `cargo test --release --test server -- --ignored soak --nocapture`.
#[test]
#[ignore = "it takes a quarter of an hour"]
fn in_a_quarter_of_an_hour_memory_does_not_grow() {
    let samples = soak(Duration::from_secs(15 * 60), Duration::from_secs(15));
    // The median of a minute, since bursts come and go.
    let around = |seconds: u64| {
        let near = samples.iter().filter(|sample| sample.seconds.abs_diff(seconds) <= 60);
        let mut bytes: Vec<u64> = near.map(|sample| sample.resident_bytes).collect();
        bytes.sort_unstable();
        bytes[bytes.len() / 2]
    };
    let (early, late) = (around(5 * 60), around(14 * 60));
    assert!(late * 100 <= early * 105, "from {early} to {late} bytes");
}
