use crate::support::Folder;
use crate::support::client::Connection;
use crate::support::server::{Server, bare_program, cache, setup, setup_python};
use crate::support::{packages, root};

/// A server for `tests/fixtures/calls.py`, in which calls follow each other in one instance.
fn calls() -> Server {
    serve("--cores 1 --max-requests 0")
}

fn serve(options: &str) -> Server {
    setup_python(root().join("tests/fixtures/calls.py"))
        .option("--pythonpath", packages::requests())
        .options(options)
        .start()
}

/// Each variable as it was at the end of the import.
const AT_START: &str = "nobody's, set at import, unset, None, None, 50";
/// Each variable as `sets` sets it.
const SET: &str = "mine, mine, mine, mine, mine, 7";

#[test]
fn what_a_call_sets_in_its_context_no_other_call_sees() {
    let server = calls();
    let rows = [
        ("/sets/mine", 200, SET),
        ("/sets-and-fails/mine", 500, "500 Internal Server Error\n"),
        ("/sets-late/mine", 200, "first, between pieces"),
        ("/sets-in-a-callback/mine", 200, AT_START),
        ("/defers-from-a-run/mine", 200, AT_START),
    ];
    for (path, status, text) in rows {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.text()), (status, text), "{path}");
        server.wait_for_figure("/deferred/pending", 0);
        assert_eq!(server.get("/shows").text(), AT_START, "after {path}");
    }
    assert_eq!(server.figure("/instances_created"), 1);
}

#[test]
fn a_deferred_call_has_the_context_in_which_it_was_scheduled() {
    // In the instance that scheduled it, and in another one.
    for max_requests in [0, 1] {
        let server = serve(&format!("--cores 1 --max-requests {max_requests}"));
        let rows = [
            ("/defers/mine", SET),
            ("/defers-in-another-context/given", "given, set at import, unset, None, None, 50"),
            ("/defers-from-a-run/running", "running, set at import, unset, None, None, 50"),
        ];
        for (path, seen) in rows {
            assert_eq!(server.get(path).status, 200, "{path}");
            server.wait_for_line(&format!("callback: {seen}"));
        }
        assert_eq!(server.get("/defers-in-an-empty-context").status, 200);
        server.wait_for_line("callback in an empty context: nobody's unset");
        server.wait_for_figure("/deferred/pending", 0);
    }
}

#[test]
fn a_variable_that_cannot_travel_is_an_error_that_names_it() {
    let server = calls();
    let reply = server.get("/defers-what-cannot-travel");
    let said: Vec<&str> = reply.text().lines().collect();
    let rows: [&[&str]; 2] =
        [&["'whose'", "cannot be pickled", "context="], &["'made_in_a_request'", "context="]];
    assert_eq!(said.len(), rows.len(), "{said:#?}");
    for (line, texts) in said.iter().zip(rows) {
        assert!(texts.iter().all(|text| line.contains(text)), "{line:?} has not all of {texts:?}");
    }
    // One without a default raises in the callback.
    server.wait_for_line("the callback returned an error: LookupError: <ContextVar name='bare'");
}

#[test]
fn a_payload_has_nothing_of_a_context_that_has_nothing_of_its_own() {
    let server = serve("--cores 1 --max-requests 0 --deferred-payload 40");
    assert_eq!(server.get("/defers-plainly").text(), "plain");
    // The context of this one does not fit.
    assert_eq!(server.get("/defers/mine").status, 500);
    server.wait_for_line("callback, arguments and context variables are over 40 bytes");
}

#[test]
fn what_a_call_keeps_of_its_request_or_its_loop_is_of_no_use_to_the_next() {
    const KEPT: &str = "['ValueError', 'AttributeError', 'ValueError', 'no loop runs', 2]";
    let server = calls();
    assert_eq!(server.get("/keeps").text(), "kept");
    let mut connection = Connection::open(server.address);
    let reply = connection.get("/uses-what-was-kept");
    assert_eq!((reply.status, reply.text()), (200, KEPT));
    assert_eq!(connection.get("/shows").text(), AT_START);
    assert_eq!(server.figure("/instances_created"), 1);
}

#[test]
fn each_instance_has_chance_of_its_own_but_seeds_of_the_application_hold() {
    let server = serve("--cores 1 --max-requests 1");
    let [first, second] = [(); 2].map(|()| server.get("/chance").text().to_owned());
    let pairs: Vec<_> = first.split(' ').zip(second.split(' ')).collect();
    assert_eq!(pairs.len(), 3, "{first}");
    for (first, second) in pairs {
        assert_ne!(first, second);
    }
    // What Python 3 makes of the seeds 1 and 2.
    for _ in 0..2 {
        assert_eq!(server.get("/seeded").text(), "0.13436424411240122 0.9560342718892494");
    }
}

#[test]
fn what_is_built_has_a_hash_seed_of_its_own_and_what_is_served_has_that_of_the_tools() {
    let folder = Folder::new();
    let app = folder.join("app.py");
    let text = "\
SEEN = f'<{hash(\"a\")}>'.encode()
def application(environ, start_response):
    start_response('200 OK', [])
    return [SEEN, f'<{hash(\"a\")}>'.encode()]
";
    std::fs::write(&app, text).expect("the folder can be written");
    let server = setup_python(&app).options("--cores 1 --max-requests 1").start();
    let [first, second] = [(); 2].map(|()| server.get("/").text().to_owned());
    assert_eq!(first, second);
    let (at_build, in_request) = first.split_at(first.len() / 2);
    assert_eq!(at_build, in_request);
    // One that may be given away says nothing about those that are served here.
    let component = folder.join("app.wasm");
    let mut build = bare_program();
    build.arg("build").arg("--wsgi-file").arg(&app).arg("--output").arg(&component);
    let built = build.arg("--cache").arg(cache()).output().expect("it can be run");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let server = setup(&component).options("--cores 1 --max-requests 1").start();
    let [given_away, again] = [(); 2].map(|()| server.get("/").text().to_owned());
    assert_eq!(given_away, again);
    assert_ne!(given_away, first);
}

#[test]
fn the_network_is_refused_at_the_build_and_an_exception_in_a_request() {
    let server = calls();
    let built = server.get("/built");
    for line in built.text().lines() {
        let (what, error) = line.split_once(": ").expect("a name and an exception");
        assert!(["PermissionError", "gaierror"].contains(&error), "{what}: {error}");
    }
    assert_eq!(built.text().lines().count(), 7);
    // The functions are the library's own again.
    assert_eq!(server.get("/names").text(), "[True, True, True, True, True, True]");
    let rows = [
        ("lookup", "gaierror"),
        ("lookup-by-name", "gaierror"),
        ("connect", "PermissionError"),
        ("bind", "PermissionError"),
        // As the library itself says what went wrong.
        ("request", "ConnectionError, RequestException"),
        ("request-to-address", "ConnectionError, RequestException"),
    ];
    assert_exceptions(&server, &rows);
}

#[test]
fn what_the_build_left_open_is_closed_in_a_request() {
    let server = calls();
    let rows = [
        ("bind-of-build", "OSError"),
        ("connect-of-build", "OSError"),
        ("file-of-build", "ValueError"),
        ("database-of-build", "ProgrammingError"),
        ("rows-of-build", "ProgrammingError"),
        ("listing-of-build", "StopIteration"),
    ];
    assert_exceptions(&server, &rows);
    // What is in memory alone goes on: a database, and a loop.
    assert_eq!(server.get("/in-memory").text(), "7");
}

/// Each use raises in a request, and the instance goes on.
fn assert_exceptions(server: &Server, rows: &[(&str, &str)]) {
    for (what, exception) in rows {
        let reply = server.get(&format!("/uses/{what}"));
        assert_eq!(reply.status, 200, "{what}");
        assert!(reply.text().starts_with(&format!("{exception},")), "{what}: {}", reply.text());
    }
    assert_eq!(server.figure("/requests/failures/trap"), 0);
    assert_eq!(server.figure("/instances_created"), 1);
}
