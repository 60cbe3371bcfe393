//! What the tests share: a server as a user starts it, and a client that shows
//! what really came over the socket.

pub mod client;
pub mod fault_guests;
pub mod negotiating;
pub mod nginx;
pub mod packages;
pub mod peers;
pub mod postgres;
pub mod redis;
pub mod relay;
pub mod scripts;
pub mod server;
pub mod tls;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The ready-built guest `name` of `guests/rust`, or of the folder that the
/// variable names, where CI puts the same guests freshly built.
pub fn guest(name: &str) -> PathBuf {
    let folder = std::env::var_os("WASM_SERVE_TEST_GUESTS").map(PathBuf::from);
    folder.unwrap_or_else(|| root().join("guests/rust")).join(format!("{name}.wasm"))
}

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ is in the project").to_owned()
}

/// Waits until `condition` gives something. It fails only after a time that no
/// busy machine needs.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(start.elapsed() < Duration::from_secs(180), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a process has started another one, and gives that.
pub fn child_of(pid: u32) -> u32 {
    wait_for("a process that it starts", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let children =
            threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        children.into_iter().find_map(|text| text.split_whitespace().next()?.parse().ok())
    })
}

/// An empty folder for one test, removed with the value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wasm-serve-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written");
        Folder(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
