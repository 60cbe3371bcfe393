//! For fuzzers (`host/fuzz`): for each reader of what a guest, a file or a client wrote, a
//! function that panics if the reader does not keep what it promises. The server has none
//! of this; the tests go through what fuzzers have found.

mod files;
mod guests;
mod http;
mod texts;

use std::cell::OnceCell;

/// Reads such bytes.
pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 9] = [
    ("cache", files::cache),
    ("cgi", http::cgi),
    ("chunks", http::chunks),
    ("gateway", http::gateway),
    ("guest", guests::guest),
    ("log", texts::log),
    ("options", texts::options),
    ("request", http::request),
    ("run", guests::run),
];

/// Waits for `future`, with timers.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: OnceCell<tokio::runtime::Runtime> = const { OnceCell::new() };
    }
    let new = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    RUNTIME.with(|runtime| runtime.get_or_init(new).block_on(future))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_fuzzers_found_is_read_as_promised() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(files.len() > 10, "{name}");
            for file in files {
                let path = file.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(path).unwrap());
            }
        }
    }
}
