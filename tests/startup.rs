use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::support::server::{bare_program, program, setup};
use crate::support::{Folder, child_of, fault_guests, guest, root, wait_for};

fn run(command: &mut Command) -> Output {
    command.output().expect("the program can be started")
}

/// One clear message, the exit code, and nothing half-started.
fn assert_refused(output: &Output, code: i32, says: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    for text in says {
        assert!(error.contains(text), "{text:?} is not in {error:?}");
    }
    assert!(!error.contains("Serving"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn wrong_options_are_usage_errors_that_say_what_to_change() {
    let hello = guest("hello");
    let hello = hello.to_str().unwrap();
    let rows: [(&[&str], &str); 16] = [
        (&[], "--guest"),
        (&["--guest", hello, "--cores", "0"], "--cores"),
        (&["--guest", hello, "--cores", "many"], "--cores"),
        (&["--guest", hello, "--cores", "100001"], "100000"),
        (&["--guest", hello, "--http-socket", "nonsense"], "127.0.0.1:9090"),
        (&["--guest", hello, "--memory-limit", "1X"], "128M"),
        (&["--guest", hello, "--harakiri", "0"], "--harakiri"),
        (&["--guest", hello, "--harakiri=-1"], "--harakiri"),
        (&["--guest", hello, "--dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--guest", hello, "--dir", hello], "not a folder"),
        (&["--guest", hello, "--dir", ".", "--dir", "."], "::PATH"),
        (&["--guest", hello, "--env", "WASM_SERVE_TEST_UNSET"], "give a value with NAME=VALUE"),
        (&["--guest", hello, "--deferred-share", "100"], "--deferred-share"),
        (&["--guest", hello, "--pythonpath", "."], "--wsgi-file"),
        (&["--guest", hello, "--callable", "app"], "--wsgi-file"),
        (&["--guest", hello, "--no-such-option"], "--no-such-option"),
    ];
    for (arguments, says) in rows {
        assert_refused(&run(program().args(arguments)), 64, &[says]);
    }
}

#[test]
fn what_other_servers_understand_gets_the_right_hint() {
    let hello = guest("hello");
    let hello = hello.to_str().unwrap();
    let project = root().join("guests/c");
    let dev = |option| ["dev".to_owned(), project.display().to_string(), option];
    let rows: [(&[&str], &str); 19] = [
        (&["app:app"], "wasm-serve --wsgi-file app.py --callable app"),
        (&["--reload", "app:app"], "wasm-serve dev DIR"),
        (&["shop.wsgi:application"], "wasm-serve --wsgi-file shop/wsgi.py --callable application"),
        (&["--wsgi-file", "app:app"], "--wsgi-file app.py --callable app"),
        (&["--wsgi-file", "app.py:app"], "--wsgi-file app.py --callable app"),
        (&["build", "--wsgi-file", "app:app", "--output", "x"], "--wsgi-file app.py --callable app"),
        (&["app.py"], "wasm-serve --wsgi-file app.py"),
        (&["hello.wasm"], "wasm-serve --guest hello.wasm"),
        (&["serve", hello], "wasm-serve --guest FILE"),
        (&["--guest", hello, "--processes", "4"], "--threads N"),
        (&["--guest", hello, "--workers=4"], "--threads N"),
        (&["--guest", hello, "-p", "4"], "--threads N"),
        (&["--guest", hello, "--reload"], "wasm-serve dev DIR"),
        (&["--guest", hello, "--bind", ":80"], "--http-socket"),
        (&["--guest", hello, "--module", "app:app"], "--callable app"),
        (&["--guest", hello, "--runtime-config-file", "x"], "--keyvalue NAME=PLACE"),
        (&["new", "--lang", "typescript", "x"], "`assemblyscript` has its syntax"),
        (&["new", "--lang", "JS", "x"], "`javascript`"),
        (&["new", "--lang", "zig", "x"], "a script `build OUT.wasm`"),
    ];
    let check = |arguments: &[&str], says: &str| {
        let output = run(bare_program().args(arguments));
        assert_refused(&output, 64, &[says]);
        let said = String::from_utf8_lossy(&output.stderr);
        for wrong in ["a similar", "Usage: wasm-serve --cores"] {
            assert!(!said.contains(wrong), "{arguments:?}: {said}");
        }
    };
    rows.iter().for_each(|(arguments, says)| check(arguments, says));
    for (option, says) in [("--workers=2", "--threads N"), ("--reload", "wasm-serve dev DIR")] {
        check(&dev(option.to_owned()).each_ref().map(String::as_str), says);
    }
    // What only looks like an option of ours is still told so.
    let output = run(program().args(["--guest", hello, "--core", "4"]));
    assert_refused(&output, 64, &["'--cores'"]);
}

#[test]
fn help_and_version_are_not_errors() {
    for option in ["--help", "-h", "--version"] {
        let output = run(program().arg(option).stdout(std::process::Stdio::piped()));
        assert!(output.status.success());
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_file_that_will_not_do_is_refused_with_a_reason() {
    let folder = Folder::new();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).unwrap();
        folder.join(name)
    };
    let hello = std::fs::read(guest("hello")).unwrap();
    let rows: [(std::path::PathBuf, &[&str]); 11] = [
        (folder.0.clone(), &["cannot be read"]),
        (file("empty.wasm", b""), &["is not WebAssembly"]),
        (file("garbage.wasm", b"\x7fELF garbage"), &["is not WebAssembly"]),
        (file("text.wasm", b"(module)"), &["text form", "wasm-tools parse"]),
        (file("cut.wasm", &hello[..hello.len() / 2]), &["not valid WebAssembly"]),
        (file("header.wasm", &hello[..6]), &["not valid WebAssembly"]),
        (fault_guests::component("core-module"), &["core module", "_start", "wasm-serve componentize"]),
        (
            fault_guests::component("wrong-world"),
            &["wasi:http/incoming-handler", "wasi:cli/run", "wasi:http/proxy"],
        ),
        (fault_guests::component("unknown-import"), &["example:unknown/thing", "does not offer"]),
        (fault_guests::component("timers-without-callback"), &["exports no callback", "callback@0.1.0"]),
        (fault_guests::component("big-memory"), &["--memory-limit"]),
    ];
    for (path, says) in rows {
        let output = run(program().arg("--guest").arg(&path).args(["--http-socket", "127.0.0.1:0"]));
        assert_refused(&output, 1, says);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = setup(guest("hello")).start();
    let address = server.address.to_string();
    let output = run(program().arg("--guest").arg(guest("hello")).args(["--http-socket", &address]));
    assert_refused(&output, 1, &[&address, "choose another address"]);
}

#[test]
fn a_file_that_is_no_socket_is_not_removed_for_one() {
    let folder = Folder::new();
    let path = folder.join("precious");
    std::fs::write(&path, "precious").unwrap();
    let socket = format!("unix:{}", path.display());
    let output = run(program().arg("--guest").arg(guest("hello")).args(["--http-socket", &socket]));
    assert_refused(&output, 1, &["not a socket"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error() {
    let folder = Folder::new();
    let output = run(program().arg("--guest").arg(guest("hello")).arg("--logto").arg(&folder.0));
    assert_refused(&output, 1, &["--logto", folder.0.to_str().unwrap()]);
}

#[test]
fn what_is_missing_is_a_usage_error_whichever_option_named_it() {
    let folder = Folder::new();
    let missing = folder.join("missing").to_str().unwrap().to_owned();
    let inside = folder.join("missing/file").to_str().unwrap().to_owned();
    let socket = format!("unix:{inside}");
    let hello = guest("hello");
    let hello = hello.to_str().unwrap();
    let application = root().join("guests/python/blocking.py");
    let application = application.to_str().unwrap();
    let rows: [&[&str]; 16] = [
        &["--guest", &missing],
        &["--guest", &inside],
        &["--guest", &format!("{hello}/file")],
        &["--wsgi-file", &missing],
        &["--wsgi-file", application, "--pythonpath", &missing],
        &["--guest", hello, "--dir", &missing],
        &["--guest", hello, "--logto", &inside],
        &["--guest", hello, "--print-address", &inside],
        &["--guest", hello, "--http-socket", &socket],
        &["--guest", hello, "--stats", &socket],
        &["build", "--wsgi-file", &missing, "--output", "x.wasm"],
        &["build", "--wsgi-file", application, "--output", &inside],
        &["build", &missing],
        &["dev", &missing],
        &["componentize", &missing, "--output", "x.wasm"],
        &["inspect", &missing],
    ];
    for arguments in rows {
        let output = run(bare_program().args(arguments));
        assert_refused(&output, 64, &["there is no such"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let named = arguments.iter().rev().find(|argument| argument.len() > 1 && said.contains(*argument));
        assert!(named.is_some(), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// The program for a user whose home cannot be written, and who has said nothing else.
fn homeless(folder: &Folder) -> Command {
    std::fs::write(folder.join("home"), "").unwrap();
    let mut program = bare_program();
    program.env("HOME", folder.join("home")).env_remove("XDG_CACHE_HOME").env_remove("WASM_SERVE_TOOLS");
    program
}

#[test]
fn a_home_that_cannot_be_written_is_named_with_what_to_say_instead() {
    let folder = Folder::new();
    let cache = folder.join("home/.cache/wasm-serve/compiled");
    let address = folder.join("address");
    let mut server = homeless(&folder)
        .arg("--guest")
        .arg(guest("hello"))
        .args(["--http-socket", "127.0.0.1:0", "--logto"])
        .arg(folder.join("log"))
        .arg("--print-address")
        .arg(&address)
        .spawn()
        .unwrap();
    let log =
        wait_for("it to serve", || address.exists().then(|| std::fs::read_to_string(folder.join("log"))));
    let _ = server.kill();
    let _ = server.wait();
    let named = format!("--cache {}: cannot be used", cache.display());
    let log = log.unwrap();
    assert!(log.contains(&named) && log.contains("--cache DIR names another folder"), "{log}");
    let application = root().join("guests/python/blocking.py");
    let mut build = homeless(&folder);
    build.arg("build").arg("--wsgi-file").arg(&application).arg("--output").arg(folder.join("app.wasm"));
    let output = run(&mut build);
    let tools = folder.join("home/.cache/wasm-serve/tools");
    assert_refused(&output, 1, &[tools.to_str().unwrap(), "--cache DIR names another folder"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("Installing"), "nothing is loaded for a place that there is not: {said}");
}

#[test]
fn tools_are_where_cache_says_for_the_program_and_for_scripts() {
    let folder = Folder::new();
    let application = root().join("guests/python/blocking.py");
    let application = application.to_str().unwrap();
    let tools = format!("--target {}/", folder.join("cache/tools").display());
    let cache = folder.join("cache");
    let build = ["build", "--wsgi-file", application, "--offline", "--output"];
    let output = run(homeless(&folder).args(build).arg(folder.join("app.wasm")).arg("--cache").arg(&cache));
    assert_refused(&output, 1, &[&tools]);
    // A script, and the program that it runs.
    std::fs::create_dir(folder.join("project")).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"tools: $WASM_SERVE_TOOLS\" >&2\nexec \"$WASM_SERVE\" {} \"$1\"\n",
        build.join(" ")
    );
    std::fs::write(folder.join("project/build"), script).unwrap();
    std::fs::set_permissions(folder.join("project/build"), Permissions::from_mode(0o755)).unwrap();
    // Wherever it is run.
    let output = run(homeless(&folder)
        .current_dir(&folder.0)
        .arg("build")
        .arg(folder.join("project"))
        .args(["--cache", "cache"]));
    let said = format!("tools: {}\n", folder.join("cache/tools").display());
    assert_refused(&output, 1, &[&said, &tools]);
}

/// What is said of an application where nothing can be built.
fn said_of(application: &str, modules: &[(&str, &str)]) -> String {
    let folder = Folder::new();
    std::fs::write(folder.join("app.py"), application).unwrap();
    for (name, source) in modules {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, source).unwrap();
    }
    let mut build = bare_program();
    build.current_dir(&folder.0).env("WASM_SERVE_TOOLS", folder.join("none"));
    build.args(["--wsgi-file", "app.py", "--http-socket", "127.0.0.1:0", "--offline", "--cache", "cache"]);
    let output = run(&mut build);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_is_wrong_with_a_python_file_is_told_before_anything_is_built() {
    const GOOD: &str = "def application(environ, start_response):\n    return []\n";
    const NEEDED: &str = "componentize-py is needed";
    let first = |said: &str, text: &str| {
        let (told, later) = (said.find(text), said.find(NEEDED));
        let is_first = told.is_some_and(|told| later.is_none_or(|later| told < later));
        assert!(is_first, "{text} is not first in {said}");
    };
    first(&said_of("def application(:\n", &[]), "line 1");
    first(&said_of("return 1\n", &[]), "SyntaxError");
    first(&said_of("\0asm\x0d\0\x01\0", &[]), "is WebAssembly, not Python; serve it with --guest");
    first(
        &said_of(
            &format!("import shop.views\n{GOOD}"),
            &[("shop/__init__.py", ""), ("shop/views.py", "x = (\n")],
        ),
        "shop/views.py",
    );
    first(
        &said_of(
            &format!("from shop import views\n{GOOD}"),
            &[("shop/__init__.py", "from . import views"), ("shop/views.py", "x = (\n")],
        ),
        "shop/views.py",
    );
    for (source, hint) in [
        ("app = make()\n", "--callable app"),
        ("from flask import Flask\napp = Flask(__name__)\n", "--callable app"),
        ("def hello(environ, start_response):\n    return []\n", "--callable hello"),
        ("", "name the WSGI callable with --callable"),
    ] {
        let said = said_of(source, &[]);
        first(&said, "has no 'application'");
        assert!(said.contains(hint) && !said.contains(NEEDED), "{said}");
    }
    // What may be right, the build decides.
    for source in [
        GOOD,
        "from shop import application",
        "from shop import *",
        "import shop as application",
        "globals()['appli' + 'cation'] = print",
        "try:\n    import nothing_of_the_kind\nexcept ImportError:\n    pass\napplication = print",
        "if False:\n    import shop.broken\napplication = print",
        "def make():\n    global application\n    application = print\nmake()",
        "class application:\n    pass",
        "for application in [print]: pass",
    ] {
        let said =
            said_of(source, &[("shop/__init__.py", "application = print"), ("shop/broken.py", "x = (\n")]);
        assert!(
            said.contains(NEEDED) && !said.contains("has no") && !said.contains("Error:"),
            "{source}: {said}"
        );
    }
}

#[test]
fn help_says_where_things_are_kept_and_what_its_words_mean() {
    let output = run(program().arg("--help").stdout(std::process::Stdio::piped()));
    let help = String::from_utf8(output.stdout).unwrap();
    // And what the words mean that it uses, before it does.
    let (before, _) = help.split_once("Usage:").unwrap();
    let before = before.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["component, which is", "A core is the place for one call at a time"] {
        assert!(before.contains(text), "{text} is not in {before}");
    }
    for text in ["--cache <DIR>", "XDG_CACHE_HOME", "DIR/tools"] {
        assert!(help.contains(text), "{text} is not in {help}");
    }
}

#[test]
fn a_script_learns_the_address_when_requests_are_served_and_not_before() {
    let folder = Folder::new();
    let file = folder.join("address");
    let read = || std::fs::read_to_string(&file).ok();
    // As a server that was killed leaves it.
    std::fs::write(&file, "http://127.0.0.1:1/\n").unwrap();
    std::fs::copy(fault_guests::component("huge"), folder.join("app.wasm")).unwrap();
    let mut server = bare_program()
        .arg("--guest")
        .arg(folder.join("app.wasm"))
        .arg("--print-address")
        .arg(&file)
        .args(["--http-socket", "127.0.0.1:0", "--stats", "127.0.0.1:0"])
        .arg("--cache")
        .arg(folder.join("cache"))
        .spawn()
        .unwrap();
    // While it compiles, which takes a while, there is none.
    child_of(server.id());
    assert_eq!(read(), None);
    let _ = server.kill();
    let _ = server.wait();
    for (option, http) in [
        ("127.0.0.1:0".to_owned(), None),
        (
            format!("unix:{}", folder.join("socket").display()),
            Some(format!("unix:{}", folder.join("socket").display())),
        ),
    ] {
        let server =
            setup(guest("hello")).option("--http-socket", option).option("--print-address", &file).start();
        let expected = http.unwrap_or_else(|| format!("http://{}/", server.address));
        let text = wait_for("the address", read);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines, [expected, format!("http://{}/", server.stats_address)], "whole at once");
        assert_eq!(server.stop().status.code(), Some(0));
        assert_eq!(read(), None);
    }
}

#[test]
fn the_address_is_not_written_over_what_is_something_else() {
    let folder = Folder::new();
    std::fs::write(folder.join("app.py"), "application = None").unwrap();
    std::fs::create_dir(folder.join("folder")).unwrap();
    for name in ["app.py", "folder"] {
        let output =
            run(program().arg("--guest").arg(guest("hello")).arg("--print-address").arg(folder.join(name)));
        assert_refused(&output, 1, &["--print-address", name]);
    }
    assert_eq!(std::fs::read_to_string(folder.join("app.py")).unwrap(), "application = None");
}

#[test]
fn the_first_line_says_where_and_the_second_how_large() {
    let server = setup(guest("hello")).options("--cores 3 --memory-limit 64M --memory-total 200M").start();
    assert_eq!(server.first_lines[0], format!("Serving HTTP on http://{}/", server.address));
    assert!(server.first_lines[1].starts_with("3 cores"), "{:?}", server.first_lines);
    assert!(server.first_lines[1].contains("64 MiB each, 200 MiB together"), "{:?}", server.first_lines);
}

#[test]
fn thousands_of_cores_find_room() {
    let server = setup(guest("hello")).options("--cores 5000 --max-requests 0").start();
    assert_eq!(server.get("/").text(), "Hello World");
}

#[test]
fn a_cache_that_cannot_be_used_only_costs_time() {
    let folder = Folder::new();
    std::fs::write(folder.join("file"), "").unwrap();
    let option = format!("--cache {}", folder.join("file").display());
    let server = setup(guest("hello")).options(&option).start();
    assert_eq!(server.get("/").text(), "Hello World");
    server.wait_for_line("compiled at every start");
}
