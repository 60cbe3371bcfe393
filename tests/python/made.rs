use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::inotify;

use super::{contains, faults, file, numbered_lines, root};
use crate::support::client::Connection;
use crate::support::server::{bare_program, build, program, setup, setup_python};
use crate::support::{Folder, wait_for};

const HELLO: &str = "\
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [GREETING]
";

const NEVER_CALLED: &str = "def application(environ, start_response):\n    pass\n";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes a component as `folder/app.wasm`, with a cache of the test's own. It says
/// whether there was something to build.
fn is_built(folder: &Folder, file: &Path) -> bool {
    let output = build(file, &folder.join("app.wasm"), &folder.join("cache")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    said(&output).contains("Building ")
}

fn write(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("the folder")).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// Starting `text` fails with a traceback that has all of `says`, and nothing is served.
fn assert_refused(text: &str, says: &[&str]) {
    let folder = Folder::new();
    let path = write(&folder, "refused.py", text);
    let output =
        program().arg("--wsgi-file").arg(&path).args(["--http-socket", "127.0.0.1:0"]).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for text in says.iter().chain(&[path.to_str().unwrap()]) {
        assert!(said.contains(text), "{text:?} is not in {said}");
    }
    assert!(!said.contains("Serving") && !said.contains("panicked"), "{said}");
}

/// The same of an import that fails before it comes to the application, which is there.
fn assert_import_refused(text: &str, says: &[&str]) {
    assert_refused(&format!("{text}\n{NEVER_CALLED}"), says);
}

#[test]
fn a_syntax_error_is_shown_with_its_line() {
    let text = "def application(environ, start_response):\n    return = 1\n";
    assert_refused(text, &["line 2", "return = 1", "SyntaxError"]);
}

#[test]
fn exceptions_at_import_have_their_tracebacks_and_what_to_do() {
    let text = "\
import os
try:
    import no_such_module
except ImportError:
    def read():
        raise RuntimeError('at import')
    read()
";
    assert_import_refused(
        text,
        &[
            "line 3",
            "import no_such_module",
            "ModuleNotFoundError",
            "'no_such_module'",
            "--pythonpath",
            "line 7",
            "line 6",
            "in read",
            "RuntimeError: at import",
        ],
    );
}

/// Hints are the same in any CPython.
const HINTS: &str = "\
import sys
from wasm_serve import hints
def hint(text):
    try:
        exec(text, {'__name__': 'app'})
    except Exception as failure:
        return hints.of_build(failure)
for text in sys.argv[1:]:
    print(hint(text))
";

#[test]
fn each_failure_of_an_import_has_its_hint() {
    let folder = Folder::new();
    // As pip installs it for the machine that it runs on, but for another version.
    write(&folder, "fast_core/__init__.py", "from ._core import fast\n");
    write(&folder, "fast_core/_core.cpython-303-x86_64-linux-gnu.so", "\u{7f}ELF and more");
    let rows = [
        ("import no_such_module", "--pythonpath DIR"),
        ("import fast_core", "fast_core._core is compiled for another machine (_core.cpython-303-x86"),
        (
            "try:\n    import fast_core\nexcept ImportError as reason:\n    raise ValueError from reason",
            "fast_core._core is compiled for another machine",
        ),
        ("raise ModuleNotFoundError(name='winreg')", "winreg, of the standard library, does not exist"),
        ("import os; os.environ['SECRET']", "--env SECRET=VALUE"),
        ("open('settings.txt')", "beside an imported module"),
        ("{}['SECRET']", ""),
    ];
    let mut python = Command::new("python3");
    let paths = [root().join("guests/python/adapter"), folder.0.clone()];
    python.env("PYTHONPATH", std::env::join_paths(paths).unwrap()).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.args(["-c", HINTS]).args(rows.map(|(text, _)| text)).output().unwrap();
    let hints = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(hints.lines().count(), rows.len(), "{}", said(&output));
    for ((text, says), hint) in rows.into_iter().zip(hints.lines()) {
        assert!(hint.contains(says) && hint.is_empty() == says.is_empty(), "{text}: {hint}");
    }
}

#[test]
fn a_module_that_cannot_be_there_is_named_with_what_to_do() {
    assert_import_refused("import ctypes\n", &["There is no _ctypes in a WebAssembly guest", "pure Python"]);
    assert_import_refused(
        "import fcntl\n",
        &["fcntl, of the standard library, does not exist in a WebAssembly guest"],
    );
}

#[test]
fn a_compiled_part_of_a_package_is_named_with_what_to_do() {
    // As pip installs them for the machine that it runs on. The guest finds the second one.
    let folder = Folder::new();
    for (package, name) in [("fast", "_core.cpython-311-x86_64-linux-gnu.so"), ("faster", "_core.abi3.so")] {
        write(&folder, &format!("{package}_core/__init__.py"), "from ._core import fast\n");
        write(&folder, &format!("{package}_core/{name}"), "\u{7f}ELF and more");
        let wraps = format!(
            "try:\n    import {package}_core\nexcept ImportError as reason:\n    raise ImportError('cannot be used') from reason\n"
        );
        write(&folder, &format!("{package}/__init__.py"), &wraps);
    }
    let one_or_the_other = "try:\n    import fast\nexcept ImportError:\n    import faster\n";
    let app = write(&folder, "app.py", &format!("{one_or_the_other}{NEVER_CALLED}"));
    let output = build(&app, &folder.join("app.wasm"), &folder.join("cache")).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for text in [
        "ModuleNotFoundError: No module named 'fast_core._core'",
        "faster_core._core is compiled for another machine (_core.abi3.so)",
        "cannot be loaded in a WebAssembly guest",
        "pure Python",
    ] {
        assert!(said.contains(text), "{text:?} is not in {said}");
    }
}

#[test]
fn a_descriptor_left_open_by_its_number_is_refused_at_the_build() {
    let text = "import contextvars, os\nNUMBER = os.open(contextvars.__file__, os.O_RDONLY)\ndef application(*_):\n    pass\n";
    assert_refused(text, &["RuntimeError: descriptors were left open", "os.open", "open them there"]);
}

#[test]
fn what_the_import_prints_is_no_obstacle_however_much_it_is() {
    let folder = Folder::new();
    let text = "for number in range(20_000):\n    print('x' * 60, flush=True)\nGREETING = b'printed'\n";
    let app = write(&folder, "app.py", &format!("{text}{HELLO}"));
    assert!(is_built(&folder, &app));
}

#[test]
fn what_there_is_in_requests_alone_is_refused_with_its_line() {
    let text = "import asyncio\nasyncio.get_event_loop().call_later(1, print)\n";
    assert_import_refused(text, &["line 2", "call_later", "RuntimeError", "while the component is built"]);
}

#[test]
fn an_asynchronous_application_is_refused() {
    let text = "async def application(scope, receive, send):\n    pass\n";
    assert_refused(text, &["'application'", "ASGI", "WSGI"]);
}

#[test]
fn a_missing_callable_is_named_with_the_option_that_says_another() {
    let text = "def app(environ, start_response):\n    return []\n";
    assert_refused(text, &["'application'", "--callable"]);
}

#[test]
fn what_is_wrong_with_the_options_is_a_usage_error() {
    let hello = file("blocking.py");
    let hello = hello.to_str().unwrap();
    let rows: [(&[&str], &str); 4] = [
        (&["--wsgi-file", "/nowhere/at/all.py"], "/nowhere/at/all.py"),
        (&["--wsgi-file", hello, "--pythonpath", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--wsgi-file", hello, "--callable", "a b"], "--callable"),
        (&["--wsgi-file", hello, "--guest", hello], "--guest"),
    ];
    for (arguments, says) in rows {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
}

#[test]
fn offline_without_the_tool_says_how_to_install_it() {
    let folder = Folder::new();
    let path = write(&folder, "app.py", HELLO);
    let output = build(&path, &folder.join("app.wasm"), &folder.join("cache"))
        .arg("--offline")
        .env_remove("WASM_SERVE_TOOLS")
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--offline"), "{said}");
    let command = format!("python3 -m pip install --target {}", folder.join("cache").display());
    assert!(said.contains(&command) && said.contains("componentize-py==0.25.1"), "{said}");
    assert!(!folder.join("app.wasm").exists());
}

#[test]
fn a_changed_file_or_module_makes_a_new_component_and_nothing_else_does() {
    let folder = Folder::new();
    write(&folder, "words/__init__.py", "");
    write(&folder, "words/polite.py", "GREETING = b'Good day'\n");
    write(&folder, "words/rude.py", "GREETING = b'You'\n");
    let app = write(&folder, "app.py", &format!("from words.polite import GREETING\n{HELLO}"));
    assert!(is_built(&folder, &app));
    assert!(!is_built(&folder, &app));
    // Neither the time of a file nor what is in one that is not imported counts.
    write(&folder, "words/polite.py", "GREETING = b'Good day'\n");
    write(&folder, "words/rude.py", "GREETING = b'You there'\n");
    assert!(!is_built(&folder, &app));
    write(&folder, "words/polite.py", "GREETING = b'Good evening'\n");
    assert!(is_built(&folder, &app));
    assert!(!is_built(&folder, &app));
    let component = fs::read(folder.join("app.wasm")).unwrap();
    assert!(contains(&component, b"Good evening") && !contains(&component, b"Good day"));
    write(&folder, "app.py", &format!("GREETING = b'Good night'\n{HELLO}"));
    assert!(is_built(&folder, &app));
    let component = fs::read(folder.join("app.wasm")).unwrap();
    assert!(contains(&component, b"Good night") && !contains(&component, b"Good evening"));
}

#[test]
fn a_file_that_is_opened_makes_a_new_component_and_so_does_what_was_missing() {
    let folder = Folder::new();
    let words = "\
import os
try:
    with open(os.path.join(os.path.dirname(__file__), 'greeting.txt'), 'rb') as file:
        GREETING = file.read()
except FileNotFoundError:
    GREETING = b'Hello'
try:
    from . import more
    GREETING = more.GREETING
except ImportError:
    pass
try:
    open(os.path.join(os.path.dirname(__file__), 'written.txt'), 'a')
except OSError:
    pass
";
    write(&folder, "words/__init__.py", words);
    write(&folder, "words/greeting.txt", "Good day");
    // This package cannot be imported at first, so that nothing is left of it.
    write(&folder, "words/more/__init__.py", "from .local import GREETING\n");
    let app = write(&folder, "app.py", &format!("from words import GREETING\n{HELLO}"));
    assert!(is_built(&folder, &app));
    assert!(!is_built(&folder, &app));
    for (name, text, greeting) in [
        ("words/greeting.txt", "Good evening", "Good evening"),
        ("words/more/local.py", "GREETING = b'Good night'\n", "Good night"),
    ] {
        write(&folder, name, text);
        assert!(is_built(&folder, &app), "{text}");
        assert!(!is_built(&folder, &app), "{text}");
        assert!(contains(&fs::read(folder.join("app.wasm")).unwrap(), greeting.as_bytes()), "{text}");
    }
}

#[test]
fn a_second_start_builds_nothing() {
    let start = || setup_python(file("blocking.py")).options("--cores 1").start();
    drop(start());
    let server = start();
    assert_eq!(server.earlier_lines, [""; 0]);
    assert_eq!(server.get("/").text(), "Hello World");
}

#[test]
fn a_component_is_a_guest_like_any_other() {
    let folder = Folder::new();
    let output = build(&file("nonblocking.py"), &folder.join("app.wasm"), &crate::support::server::cache())
        .current_dir(root().join("guests/rust/numbers"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let numbers = root().join("guests/rust/numbers");
    let server = setup(folder.join("app.wasm"))
        .dir(&numbers)
        .options("--cores 1 --log-verbatim --disable-logging")
        .start();
    assert_eq!(server.get("/").text(), "Hello World");
    server.wait_for_figure("/deferred/done", 1);
    server.wait_for_line("9:10");
    assert_eq!(server.log(), numbered_lines());
}

/// Tells when a file is opened.
struct Opened(rustix::fd::OwnedFd);

impl Opened {
    fn watch(file: &Path) -> Opened {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, file, inotify::WatchFlags::OPEN).unwrap();
        Opened(watch)
    }

    fn wait(&self) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        // A build may take long on a busy machine.
        let end = Instant::now() + Duration::from_secs(600);
        while events.next().is_err() {
            assert!(Instant::now() < end, "the file was not opened");
            sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn what_changes_while_it_is_built_is_in_the_next_component() {
    // A file that another one is moved over has the time of that one.
    let long_ago = SystemTime::now() - Duration::from_hours(1);
    let folder = Folder::new();
    write(&folder, "words.py", "GREETING = b'Good day'\n");
    let text = format!(
        "\
import os, time, words
PARTING = b'Good night'
os.close(os.open(os.path.dirname(words.__file__) + '/waits', os.O_RDONLY))
end = time.time() + 100
while not os.path.exists(os.path.dirname(words.__file__) + '/changed'):
    assert time.time() < end
from words import GREETING
{HELLO}"
    );
    let app = write(&folder, "app.py", &text);
    let waits = write(&folder, "waits", "");
    for (name, old, new) in [("app.py", "Good night", "Sleep well"), ("words.py", "Good day", "Good evening")]
    {
        let opened = Opened::watch(&waits);
        let child = build(&app, &folder.join("app.wasm"), &folder.join("cache")).spawn().unwrap();
        opened.wait();
        let text = fs::read_to_string(folder.join(name)).unwrap().replace(old, new);
        let moved = write(&folder, "moved", &text);
        File::options().append(true).open(&moved).unwrap().set_modified(long_ago).unwrap();
        fs::rename(moved, folder.join(name)).unwrap();
        write(&folder, "changed", "");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains("Building "), "{name}");
        fs::remove_file(folder.join("changed")).unwrap();
    }
    write(&folder, "changed", "");
    assert!(is_built(&folder, &app));
    let component = fs::read(folder.join("app.wasm")).unwrap();
    assert!(contains(&component, b"Sleep well") && contains(&component, b"Good evening"));
    assert!(!is_built(&folder, &app));
}

/// Serves what this option names once, with this cache, and gives what was said until then.
fn is_served_once(option: &str, file: &Path, cache: &Path, address: &Path) -> String {
    let mut server = bare_program();
    server.args(["--http-socket", "127.0.0.1:0", option]).arg(file).arg("--cache").arg(cache);
    let mut server = server.arg("--print-address").arg(address).spawn().unwrap();
    wait_for("it to serve", || (address.exists() || server.try_wait().unwrap().is_some()).then_some(()));
    assert!(address.exists());
    server.kill().unwrap();
    fs::remove_file(address).unwrap();
    said(&server.wait_with_output().unwrap())
}

#[test]
fn cpython_is_compiled_once_for_all_applications() {
    let folder = Folder::new();
    let (cache, address) = (folder.join("cache"), folder.join("address"));
    let app = |greeting: &str| write(&folder, "app.py", &format!("GREETING = b'{greeting}'\n{HELLO}"));
    let first = is_served_once("--wsgi-file", &app("Hello"), &cache, &address);
    assert!(first.contains("Compiling "), "{first}");
    let changed = is_served_once("--wsgi-file", &app("Good day"), &cache, &address);
    assert!(changed.contains("Building ") && !changed.contains("Compiling "), "{changed}");
    assert!(is_built(&folder, &app("Good evening")));
    let built = is_served_once("--guest", &folder.join("app.wasm"), &cache, &address);
    assert!(!built.contains("Compiling "), "{built}");
}

#[test]
fn two_that_build_the_same_at_once_do_not_disturb_each_other() {
    let folder = Folder::new();
    let app = write(&folder, "app.py", &format!("GREETING = b'Hello'\n{HELLO}"));
    let outputs = [folder.join("one.wasm"), folder.join("two.wasm")];
    let children: Vec<_> =
        outputs.iter().map(|output| build(&app, output, &folder.join("cache")).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    for output in outputs {
        assert!(fs::read(&output).unwrap().starts_with(b"\0asm"), "{}", output.display());
    }
    assert!(!is_built(&folder, &app));
}

#[test]
fn the_callable_and_the_folders_of_modules_can_be_named() {
    let folder = Folder::new();
    write(&folder, "first/words.py", "GREETING = b'first'\n");
    write(&folder, "second/words.py", "GREETING = b'second'\n");
    write(&folder, "second/more.py", "MORE = b' more'\n");
    let app = write(
        &folder,
        "app.py",
        &format!(
            "from words import GREETING\nfrom more import MORE\nGREETING += MORE\n{HELLO}other = application\ndel application\n"
        ),
    );
    let (first, second) = (folder.join("first"), folder.join("second"));
    let folders = format!("--pythonpath {} --pythonpath {}", first.display(), second.display());
    let server = setup_python(app).options(&format!("--cores 1 --callable other {folders}")).start();
    assert_eq!(server.get("/").text(), "first more");
}

/// What it makes of variables when it is imported, and what a request sees of them.
const SETTINGS: &str = "\
import os
AT_IMPORT = os.environ.get('SECRET_KEY', 'dev')
os.environ.setdefault('SETTINGS', 'of the import')
os.environ.pop('TAKEN', None)

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [f'{AT_IMPORT} {sorted(os.environ.items())}'.encode()]
";

#[test]
fn settings_that_are_read_at_import_are_those_of_the_server() {
    let folder = Folder::new();
    let app = write(&folder, "app.py", SETTINGS);
    let (component, cache) = (folder.join("app.wasm"), folder.join("cache"));
    let is_built = |options: &[&str]| {
        let output = build(&app, &component, &cache).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        said(&output).contains("Building ")
    };
    assert!(is_built(&[]));
    // What was not asked for makes no other component.
    assert!(!is_built(&["--env", "OTHER=1"]));
    let one = ["--env", "SECRET_KEY=one", "--env", "TAKEN=x", "--env", "OTHER=1"];
    assert!(is_built(&one));
    assert!(!is_built(&one));
    let start = |options: &[&str]| {
        let options = options.join(" ");
        setup(&component).options(&format!("--cores 1 {options}")).start()
    };
    let server = start(&one);
    let seen = "one [('OTHER', '1'), ('SECRET_KEY', 'one'), ('SETTINGS', 'of the import')]";
    assert_eq!(server.get("/").text(), seen);
    drop(server);
    // A setting of the build need not be there in a request.
    assert_eq!(start(&[]).get("/").text(), "one [('SETTINGS', 'of the import')]");
    // None that the build did not see is taken for the one that it saw, nor for none.
    for (variable, name) in [("SECRET_KEY=two", "SECRET_KEY"), ("SETTINGS=other", "SETTINGS")] {
        let mut refused = program();
        refused.args(["--http-socket", "127.0.0.1:0", "--env", variable, "--guest"]).arg(&component);
        let output = refused.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let says = format!("wasm-serve build --env {name}=VALUE");
        assert!(said(&output).contains(&says), "{}", said(&output));
    }
}

#[test]
fn an_import_that_looks_at_all_variables_is_made_anew_for_each_change() {
    let folder = Folder::new();
    let text = "import os\nGREETING = repr(sorted(dict(os.environ))).encode()\n";
    let app = write(&folder, "app.py", &format!("{text}{HELLO}"));
    for (options, built) in [(vec![], true), (vec![], false), (vec!["--env", "NEW=1"], true)] {
        let output =
            build(&app, &folder.join("app.wasm"), &folder.join("cache")).args(&options).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(said(&output).contains("Building "), built, "{options:?}");
    }
    let component = fs::read(folder.join("app.wasm")).unwrap();
    assert!(contains(&component, b"['NEW']"));
}

#[test]
fn the_library_is_what_its_documents_say_in_a_request() {
    let folder = Folder::new();
    write(&folder, "file", "content\n");
    let server =
        setup_python(root().join("tests/fixtures/faults.py")).dir(&folder.0).options("--cores 1").start();
    let finalized = "['finalized', True, False, 'weakref', False]";
    assert_eq!(server.get("/finalizes").text(), finalized);
    assert_eq!(server.get("/opens/file").text(), "['content\\n', True]");
}

#[test]
fn what_is_not_there_in_a_request_is_said_with_what_to_do_once() {
    let server = faults("--cores 1 --log-verbatim");
    let rows = [
        ("/imports/no_such_module", "no_such_module was not imported when the component was built"),
        ("/imports/ftplib", "ftplib was not imported when the component was built"),
        ("/imports/ctypes", "There is no ctypes in a WebAssembly guest"),
        ("/looks-up/example.invalid", "A name is looked up if the server's --allow-outbound grants it"),
    ];
    for (path, line) in rows {
        for _ in 0..2 {
            assert_eq!(server.get(path).status, 500, "{path}");
        }
        server.wait_for_line(line);
    }
    let log = server.stop().log;
    for (path, line) in rows {
        assert_eq!(log.lines().filter(|text| text.starts_with(line)).count(), 1, "{path}: {log}");
    }
}

#[test]
fn variables_are_those_of_the_run_and_not_of_the_build() {
    let server = faults("--cores 1 --env GREETING=hello --env EMPTY=");
    assert_eq!(server.get("/env/GREETING").text(), "'hello'");
    assert_eq!(server.get("/env/EMPTY").text(), "''");
    assert_eq!(server.get("/env/PATH").text(), "None");
    let server = faults("--cores 1 --env GREETING=bye");
    assert_eq!(server.get("/env/GREETING").text(), "'bye'");
    assert_eq!(server.earlier_lines, [""; 0]);
}

#[test]
fn chance_is_not_made_at_the_build() {
    let server = faults("--cores 1 --max-requests 1");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        let reply = server.get("/chance");
        assert_eq!(reply.status, 200);
        for number in reply.text().split(' ') {
            assert!(seen.insert(number.to_owned()), "{number} came twice");
        }
    }
}

#[test]
fn temporary_files_without_a_name_need_no_folder() {
    let server = faults("--cores 1");
    let reply = server.get("/temporary");
    assert_eq!(reply.text(), "[b'bytes', 'caf\u{e9}\\n', b'xxyyyyyyyy']");
}

#[test]
fn what_may_wait_for_a_disk_can_be_done_with_a_file_that_is_read() {
    let folder = Folder::new();
    write(&folder, "file", "content");
    let server =
        setup_python(root().join("tests/fixtures/faults.py")).dir(&folder.0).options("--cores 1").start();
    assert_eq!(server.get("/waits/file").text(), "[b'con', b'tent', 2.0, b'on']");
}

#[test]
fn a_named_pipe_that_nobody_reads_holds_up_nobody_else() {
    let folder = Folder::new();
    assert!(Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
    let server = setup_python(root().join("tests/fixtures/faults.py"))
        .dir(&folder.0)
        .options("--cores 2 --threads 1")
        .start();
    let mut writer = Connection::open(server.address);
    writer.send("GET /writes/pipe HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    for _ in 0..20 {
        assert_eq!(server.get("/hello").text(), "Hello World");
    }
    // Opened so that it does not wait for the writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let _reader = File::options().read(true).custom_flags(nonblocking).open(folder.join("pipe")).unwrap();
    // WASI writes at an offset, which a pipe does not have.
    assert_eq!(writer.reply().status, 500);
    server.wait_for_line("OSError: ");
}

#[test]
fn the_current_folder_is_read_only_and_dir_grants_another() {
    let server = faults("--cores 1");
    assert_eq!(server.get("/writes/note.txt").status, 500);
    server.wait_for_line("PermissionError: ");
    assert!(!root().join("guests/rust/numbers/note.txt").exists());
    let folder = Folder::new();
    let server =
        setup_python(root().join("tests/fixtures/faults.py")).dir(&folder.0).options("--cores 1").start();
    assert_eq!(server.get("/writes/note.txt").text(), "written");
    assert_eq!(fs::read_to_string(folder.join("note.txt")).unwrap(), "written");
}
