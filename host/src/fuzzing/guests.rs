//! Guests, as they are in a file, and as they run.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use clap::Parser;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::sync::oneshot;
use wasmparser::{Validator, WasmFeatures};

use super::wait_for;
use crate::clock;
use crate::commands::componentize;
use crate::commands::inspect;
use crate::config::CommandLine;
use crate::guest::Content;
use crate::guest::compiling;
use crate::guest::initial_data;
use crate::guest::pieces;
use crate::guest::summary::Summary;
use crate::memory::budget::Budget;
use crate::memory::memories::Neighbours;
use crate::program::engine::{ADDRESS_SPACE_BYTES, Room};
use crate::program::instance::Place;
use crate::program::load::Guest;
use crate::program::stripped;
use crate::program::{Program, Reuse};
use crate::sandbox::deadline::Deadline;
use crate::sandbox::epoch::Epoch;
use crate::sandbox::files::places::Places;
use crate::sandbox::host::{Host, Shared};
use crate::sandbox::transfer::Driver;
use crate::statuses;
use crate::telemetry::log::Log;
use crate::telemetry::stats::Stats;

const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Time for one call.
const TIME_MAX: Duration = Duration::from_millis(30);

/// A file that is inspected, made a component, and written anew without its data or code, or
/// with long work in pieces: what is made of a valid one is valid.
pub(super) fn guest(bytes: &[u8]) {
    let report = inspect::report(bytes, MEMORY_BYTES_MAX);
    assert!(report.ends_with('\n'));
    let is_valid =
        |bytes: &[u8]| Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).is_ok();
    let data = initial_data::find(bytes);
    let outline = stripped::outline(bytes);
    if is_valid(bytes) {
        assert!(is_valid(&outline.expect("a valid one can be read")));
        if let Some(data) = data.expect("a valid one can be read") {
            // There is none of a memory without a byte.
            let _image = data.image();
            assert!(is_valid(&initial_data::without_data(bytes).expect("a valid one can be read")));
        }
    }
    let in_pieces = pieces::in_pieces(bytes);
    if Validator::new_with_features(WasmFeatures::default()).validate_all(bytes).is_ok() {
        assert!(is_valid(&in_pieces.expect("a valid one can be read")));
    }
    if let Ok(made) = componentize::component(bytes.to_vec()) {
        assert!(is_valid(&made));
    }
}

/// A guest that is loaded as by a server, and called twice.
pub(super) fn run(bytes: &[u8]) {
    let Ok(program) = program(bytes) else { return };
    let program = Arc::new(program);
    EPOCH.drive(&program.engine);
    for _ in 0..2 {
        wait_for(call(program.clone()));
    }
}

static EPOCH: LazyLock<Epoch> = LazyLock::new(|| Epoch::start().expect("a thread"));

static LOG: LazyLock<Log> =
    LazyLock::new(|| Log::open(Some(Path::new("/dev/null")), Default::default()).expect("it is there"));

static HOST: LazyLock<Arc<Host>> = LazyLock::new(|| {
    let words = ["wasm-serve", "--guest", "guest.wasm", "--memory-limit", "64M"];
    let options = CommandLine::try_parse_from(words).expect("they are options").serve;
    let settings = options.check_values().expect("they are in their bounds");
    let stats = Arc::new(Stats::new(&statuses::METRICS));
    let shared = Shared {
        log: LOG.clone(),
        deferred: Arc::new(settings.deferred(&LOG).expect("a queue in memory")),
        budget: Budget::new(1 << 30),
        memories: Neighbours::default(),
        outbound: Arc::new(settings.outbound(&LOG, &stats).expect("nothing is granted")),
        stores: Arc::new(settings.keyvalue(&LOG).expect("nothing is granted")),
        named_values: settings.named_values().clone(),
        stats,
        places: Arc::new(Places::new(settings.open_files(), 1000)),
    };
    let host = Host::new(&settings.grants(), settings.host_limits(), shared);
    Arc::new(host.expect("a host"))
});

fn program(bytes: &[u8]) -> anyhow::Result<Program> {
    // It takes seconds to compile what is larger; a server takes them.
    anyhow::ensure!(bytes.len() <= 64 << 10 && Summary::read(bytes)?.check().is_ok());
    let compiling = compiling::Limits { time_max: Duration::MAX, memory_bytes_max: u64::MAX };
    let room = Room {
        cores: 1,
        programs: 1,
        memory_bytes_max: MEMORY_BYTES_MAX,
        address_space_bytes: ADDRESS_SPACE_BYTES,
        compiling,
        reuse: Reuse { calls_max: 1, bytes_max: 0 },
    };
    let content = Content { bytes: bytes.to_vec(), is_made_here: false };
    Guest::load("guest".to_owned(), content, None, room, &LOG)?.program(0, HOST.clone())
}

/// A request, up to the end of the guest's call; what it says of a body is read before that.
async fn call(program: Arc<Program>) {
    let share = program.host.budget.try_share(program.bytes_expected()).expect("there is one call at a time");
    let deadline = Deadline::at(clock::after(TIME_MAX));
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("/a?b").header("host", "a").body(body).expect("a request");
    let (sender, head) = oneshot::channel();
    let ended = program.handle(Place::Free(share), deadline, request, sender, Driver::default().link());
    let read = async {
        if let Ok(Ok(response)) = head.await {
            let _ = response.into_body().collect().await;
        }
    };
    // One that waits is dropped.
    let _ = tokio::time::timeout(TIME_MAX, async { tokio::join!(ended, read) }).await;
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn many_guests_of_the_corpus_run() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/run");
        let files = fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        assert!(files.filter(|file| program(file).is_ok()).count() > 10);
    }
}
