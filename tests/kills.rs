use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::client::Connection;
use crate::support::server::{Server, setup_python};
use crate::support::{Folder, root};

const CLIENTS: u64 = 4;
/// A run may have been written down, and its end not yet, when its server was killed.
const IN_FLIGHT: f64 = 0.5;

/// What is asked for by one client after the other, and stands.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<u64>>>,
}

impl Load {
    fn start(address: SocketAddr, numbers: &Arc<AtomicU64>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, numbers) = (stop.clone(), numbers.clone());
            std::thread::spawn(move || {
                let (mut connection, mut stand) = (Connection::open(address), Vec::new());
                while !stop.load(Relaxed) {
                    let number = numbers.fetch_add(1, Relaxed);
                    // Due while the server lives, when it is killed, and later.
                    let delay = number * 37 % 1500;
                    connection.send(format!("GET /?{number}-{delay} HTTP/1.1\r\nHost: h\r\n\r\n"));
                    match connection.try_reply() {
                        Ok(reply) if reply.status == 200 && reply.complete => stand.push(number),
                        _ => break,
                    }
                }
                stand
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { stop, clients }
    }

    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("it does not panic")).collect()
    }
}

fn serve(folder: &Folder) -> Server {
    let store = format!("sqlite:{}", folder.join("store/calls").display());
    setup_python(root().join("tests/fixtures/ran.py"))
        .options("--cores 8 --disable-logging --deferred-lease 1")
        .option("--deferred-store", store)
        .option("--dir", format!("{}::ran", folder.join("ran").display()))
        .start()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// When each call was due, and when it ran, by its number.
fn ran(file: &Path) -> HashMap<u64, Vec<[f64; 2]>> {
    let mut ran = HashMap::<u64, Vec<[f64; 2]>>::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [number, due, at] = words[..] else { panic!("a line that is not whole: {line}") };
        let times = [due.parse().unwrap(), at.parse().unwrap()];
        ran.entry(number.parse().unwrap()).or_default().push(times);
    }
    ran
}

/// `WASM_SERVE_KILLS` servers are killed at moments of chance, 200 unless it says how many.
#[test]
#[ignore = "it takes ten minutes"]
fn servers_are_killed_again_and_again_and_no_call_is_lost() {
    let kills: u64 = std::env::var("WASM_SERVE_KILLS").map_or(200, |kills| kills.parse().expect("a number"));
    let folder = Folder::new();
    fs::create_dir(folder.join("store")).unwrap();
    fs::create_dir(folder.join("ran")).unwrap();
    let (numbers, mut stand, mut killed) = (Arc::new(AtomicU64::new(0)), Vec::new(), Vec::new());
    for kill in 0..kills {
        let server = serve(&folder);
        let load = Load::start(server.address, &numbers);
        std::thread::sleep(Duration::from_millis(kill * 389 % 1000));
        server.signal("KILL");
        killed.push(now());
        server.wait();
        stand.extend(load.stop());
    }
    let server = serve(&folder);
    server.wait_for_figure("/deferred/pending", 0);
    assert_eq!(server.figure("/deferred/set_aside"), 0);
    server.stop();
    let ran = ran(&folder.join("ran/calls"));
    let lost: Vec<_> = stand.iter().filter(|number| !ran.contains_key(number)).collect();
    let early = ran.values().flatten().filter(|[due, at]| at < due).count();
    let twice = ran.values().filter(|runs| runs.len() > 1);
    let is_explained = |runs: &&Vec<[f64; 2]>| {
        // All but the last were under way when a server was killed.
        let (_, earlier) = runs.split_last().expect("there are two");
        earlier.iter().all(|[_, at]| killed.iter().any(|kill| at <= kill && kill - at < IN_FLIGHT))
    };
    let (explained, unexplained): (Vec<_>, Vec<_>) = twice.partition(is_explained);
    println!(
        "{kills} kills: {} acknowledged, {} run, {} lost, {early} early, {} twice since under way, {} twice without a reason",
        stand.len(),
        ran.len(),
        lost.len(),
        explained.len(),
        unexplained.len()
    );
    assert!(lost.is_empty() && unexplained.is_empty() && early == 0, "{lost:?} {unexplained:?}");
    assert!(stand.len() > 10 * kills as usize, "there was no load");
}
