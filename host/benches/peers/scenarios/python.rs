//! Python applications: the article's own two files, and `Hello World`.

use anyhow::Result;

use super::article::{self, UWSGI_BLOCKING, UWSGI_DEFERRED, numbers, uwsgi_blocking, uwsgi_deferred};
use crate::bench::Bench;
use crate::lineup::{self, granian, gunicorn, wasm_serve_python};
use crate::outcome::Outcome;
use crate::picture::Chart;
use crate::report::{self, Bar, Limit, Spread};
use crate::rounds::{Sample, rotate, row};
use crate::running::{Ask, Server};
use crate::support::root;

const DEFERRED: &str = "wasm-serve, nonblocking.py";
const BLOCKING: &str = "wasm-serve, blocking.py";
const FRESH: &str = "wasm-serve, hello.py, fresh";

/// The article's run with its own files.
pub fn article(bench: &Bench) -> Result<Outcome> {
    let ours = |name: &str, file: &str, options: &str| {
        let file = root().join("guests/python").join(file);
        wasm_serve_python(
            bench,
            name,
            &file,
            numbers(),
            &format!("--threads 2 --cores 2 --log-verbatim {options}"),
        )
    };
    let blocking = root().join("guests/python/blocking.py");
    let measured = article::measure(
        bench,
        vec![
            ours(DEFERRED, "nonblocking.py", ""),
            ours("wasm-serve, nonblocking.py, --blocking-files", "nonblocking.py", "--blocking-files"),
            uwsgi_deferred(bench),
            ours(BLOCKING, "blocking.py", ""),
            ours("wasm-serve, blocking.py, --blocking-files", "blocking.py", "--blocking-files"),
            uwsgi_blocking(bench),
            gunicorn(bench, "gunicorn, 2 workers, blocking.py", &blocking, numbers(), "--access-logfile -"),
            granian(bench, "granian, 2 workers, blocking.py", &blocking, numbers(), "--access-log"),
        ],
    )?;
    let mut bars = Vec::new();
    bars.extend(measured.bars(DEFERRED, UWSGI_DEFERRED, 1.0, 1.1));
    bars.extend(measured.bars(BLOCKING, UWSGI_BLOCKING, 1.0, 1.1));
    Ok(Outcome { bars, ..Outcome::default() })
}

/// `Hello World`, over connections that are kept alive.
pub fn hello(bench: &Bench) -> Result<Outcome> {
    let file = root().join("host/benches/peers/hello.py");
    let ours = |name: &str, options: &str| {
        wasm_serve_python(bench, name, &file, numbers(), &format!("--threads 2 --disable-logging {options}"))
    };
    let servers: Vec<Server> = vec![
        ours("wasm-serve, hello.py, warm", ""),
        ours(FRESH, "--max-requests 1"),
        super::hello::uwsgi_by_its_router(bench),
        super::hello::uwsgi_by_two_connections(bench),
        gunicorn(bench, "gunicorn, 2 workers, hello.py", &file, numbers(), ""),
        granian(bench, "granian, 2 workers, hello.py", &file, numbers(), ""),
    ];
    let servers = lineup::present(bench, servers);
    let rows = rotate(bench, &servers, &Ask::get("/", "Hello World"))?;
    report::rows(&rows);
    report::ratios(&rows);
    let fresh = row(&rows, FRESH).map(|row| Spread::of(&row.values(Sample::requests_per_second)));
    let bars = vec![Bar::new("Python hello, fresh: requests/s", Limit::AtLeast(900.0), fresh)];
    Ok(Outcome { bars, charts: Chart::both("Python", &rows) })
}
