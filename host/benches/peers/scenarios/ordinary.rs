//! Fresh instances of guests as others write them: they format, allocate and read, and each
//! language's allocator and libraries begin anew in each instance.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bench::Bench;
use crate::lineup::{self, wasm_serve_tcp, wasmtime};
use crate::outcome::Outcome;
use crate::report::{self, Bar, Limit, cpu_ratio, rate_ratio, ratio};
use crate::rounds::{Row, rotate};
use crate::running::Ask;
use crate::support::{guest, root, scripts};

const OURS: &str = "wasm-serve, 2 threads";
const ONE_THREAD: &str = "wasm-serve, 1 thread";
const WASMTIME: &str = "wasmtime serve, fresh";
/// The one that ours is compared with.
const FIRST: &str = "Rust 0.2";
const OUR_HELLO: &str = "wasm-serve, our own hello";

/// What one guest is asked.
struct Asked {
    name: &'static str,
    file: PathBuf,
    ask: Ask,
    /// It imports nothing of ours.
    runs_elsewhere: bool,
}

pub fn ordinary(bench: &Bench) -> Result<Outcome> {
    let rust = build()?;
    let (plain, wstd) = (rust.join("plain.wasm"), rust.join("hello_wstd.wasm"));
    let hello = || Ask::get("/", "Hello World");
    let asked =
        |name, file: &Path, ask, runs_elsewhere| Asked { name, file: file.to_owned(), ask, runs_elsewhere };
    let mut all = vec![
        asked(FIRST, &plain, hello(), true),
        asked("Rust 0.2, allocates 1 MiB", &plain, Ask::get("/megabyte", "1048576"), true),
        asked("Rust 0.2 with wstd", &wstd, hello(), true),
        asked("our hello 0.3", &guest("hello-0.3"), hello(), true),
        asked(
            "C, a program by CGI",
            &scripts::build("c/cgi", "programs-in-c").join("hello.wasm"),
            hello(),
            false,
        ),
    ];
    for language in ["rust/example", "c", "go", "assemblyscript", "javascript-quickjs", "javascript"] {
        let name = language.trim_end_matches("/example");
        let file = scripts::build(language, &format!("example-{name}.wasm"));
        all.push(asked(name, &file, hello(), false));
    }
    let mut outcome = Outcome::default();
    for one in &all {
        outcome.bars.extend(measure(bench, one)?);
    }
    Ok(outcome)
}

fn measure(bench: &Bench, one: &Asked) -> Result<Vec<Bar>> {
    println!("\n{}", one.name);
    let ours = |name, threads| {
        let options = format!("--threads {threads} --disable-logging");
        wasm_serve_tcp(bench, name, one.file.clone(), &options)
    };
    let mut servers = vec![ours(OURS, 2), ours(ONE_THREAD, 1)];
    if one.runs_elsewhere {
        servers.push(wasmtime(bench, WASMTIME, one.file.clone(), "--max-instance-reuse-count 1"));
    }
    let is_first = one.name == FIRST;
    if is_first {
        servers.push(wasm_serve_tcp(bench, OUR_HELLO, guest("hello"), "--threads 2 --disable-logging"));
    }
    let rows = rotate(bench, &lineup::present(bench, servers), &one.ask)?;
    report::rows(&rows);
    report::ratios(&rows);
    Ok(bars(one.name, &rows, is_first))
}

fn bars(name: &str, rows: &[Row], is_first: bool) -> Vec<Bar> {
    let mut bars = vec![Bar::new(
        format!("{name}, fresh, 2 CPUs against 1: requests/s"),
        Limit::AtLeast(1.7),
        ratio(rows, OURS, ONE_THREAD, rate_ratio),
    )];
    if rows.iter().any(|row| row.name == WASMTIME) {
        bars.push(Bar::new(
            format!("{name}, fresh: CPU µs, of wasmtime serve's"),
            Limit::AtMost(0.5),
            ratio(rows, OURS, WASMTIME, cpu_ratio),
        ));
    }
    if is_first {
        bars.push(Bar::new(
            format!("{name}, fresh: CPU µs, of our own hello's"),
            Limit::AtMost(1.3),
            ratio(rows, OURS, OUR_HELLO, cpu_ratio),
        ));
        bars.push(Bar::new(
            format!("{name}, fresh: requests/s, of wasmtime serve"),
            Limit::AtLeast(4.0),
            ratio(rows, OURS, WASMTIME, rate_ratio),
        ));
    }
    bars
}

/// Builds the guests in Rust that are here for this.
fn build() -> Result<PathBuf> {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ordinary");
    let script = root().join("host/benches/peers/guests/build");
    let _alone = scripts::alone("rust");
    let status = Command::new(&script).arg(&made).envs(scripts::rust_variables()).status();
    let status = status.with_context(|| script.display().to_string())?;
    ensure!(status.success(), "{} has failed", script.display());
    Ok(made)
}
