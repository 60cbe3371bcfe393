use std::path::PathBuf;

use crate::support::client::{Connection, Reply};
use crate::support::root;
use crate::support::server::{Server, setup_python};

/// The article's two programs, as they are.
mod article;
/// What a call leaves for others, and the build for instances: nothing that was its own.
mod calls;
/// SQLite: locks end with the call that is ended.
mod databases;
/// What happens when an application, or its interpreter, fails.
mod failures;
/// Flask, as a browser meets it.
mod flask;
/// From a file to the component that is served.
mod made;
/// Packages that many applications are made of, as they are.
mod packages;
/// A real application, with a real database, cache, mail server and service of others.
mod services;
/// The event loop's timers, and what it refuses.
mod timers;
/// PEP 3333, part by part.
mod wsgi;

/// A file of `guests/python`.
fn file(name: &str) -> PathBuf {
    root().join("guests/python").join(name)
}

/// A server for `tests/fixtures/faults.py`.
fn faults(options: &str) -> Server {
    setup_python(root().join("tests/fixtures/faults.py")).options(options).start()
}

/// Sends a request as it is, on a connection of its own.
fn ask(server: &Server, request: &str) -> Reply {
    let mut connection = Connection::open(server.address);
    connection.send(request);
    connection.reply()
}

/// The component has the application's strings as they are.
fn contains(component: &[u8], text: &[u8]) -> bool {
    component.windows(text.len()).any(|window| window == text)
}

/// The lines of `numbers.txt` as the article's programs print them.
fn numbered_lines() -> String {
    (0..10).map(|k| format!("{k}:{}\n", k + 1)).collect()
}
