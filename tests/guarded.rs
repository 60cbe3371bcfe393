use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::{self, Connection};
use crate::support::server::{self, bare_program, build, cache, setup, setup_python};
use crate::support::{Folder, fault_guests, guest, root, wait_for};

/// The files of a folder, with what is in them; a socket has nothing.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What a server has for a moment may be gone already.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        match metadata.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap_or_default())),
        }
    }
    found
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_folder_with_what_is_the_servers_own_is_a_usage_error_that_names_both() {
    let folder = Folder::new();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for name in ["data", "own/cache/inner", "home/.cache/wasm-serve/tools/inner", "modules", "project"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::copy(guest("hello"), at("own/app.wasm")).unwrap();
    fs::write(at("own/app.py"), "").unwrap();
    fs::write(at("project/build"), "").unwrap();
    fs::set_permissions(at("project/build"), Permissions::from_mode(0o755)).unwrap();
    symlink(at("own"), at("data/link")).unwrap();
    let (app, cache, log) = (at("own/app.wasm"), at("own/cache"), at("own/log"));
    let socket = format!("unix:{}", at("own/socket"));
    let hello = guest("hello").to_str().unwrap().to_owned();
    let script = root().join("guests/python/blocking.py").to_str().unwrap().to_owned();
    let rows: [(&[&str], &str, &str); 13] = [
        (&["--guest", &app], "own", &app),
        (&["--guest", &app], "", &app),
        (&["--guest", &at("data/link/app.wasm")], "own", "data/link/app.wasm"),
        (&["--guest", &at("data/link/app.wasm")], "data", "data/link/app.wasm"),
        (&["--guest", &hello, "--cache", &cache], "own", &cache),
        (&["--guest", &hello, "--cache", &cache], "data/link", &cache),
        (&["--guest", &hello, "--cache", &cache], "own/cache/inner", &cache),
        (&["--guest", &hello, "--logto", &log], "own", &log),
        (&["--guest", &hello, "--http-socket", &socket], "own", "own/socket"),
        (&["--guest", &hello, "--stats", &socket], "own", "own/socket"),
        (&["--guest", &hello], "home/.cache/wasm-serve/tools/inner", "home/.cache/wasm-serve"),
        (&["--wsgi-file", &at("own/app.py")], "own", "own/app.py"),
        (&["--wsgi-file", &script, "--pythonpath", &at("modules")], "modules", "modules"),
    ];
    let run = |arguments: &[&str], granted: &str| {
        let mut program = bare_program();
        program.args(arguments).args(["--dir", granted]).env("HOME", at("home")).env_remove("XDG_CACHE_HOME");
        program.output().unwrap()
    };
    for (arguments, granted, named) in rows {
        let output = run(arguments, &at(granted));
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{arguments:?} {said}");
        for text in [named, &at(granted), "::ro"] {
            assert!(said.contains(text), "{text:?} is not in {said:?}");
        }
    }
    // The server's own program, and what the shell opened for it.
    let program = Path::new(env!("CARGO_BIN_EXE_wasm-serve")).parent().unwrap().to_str().unwrap();
    assert_eq!(run(&["--guest", &hello], program).status.code(), Some(64));
    let output = bare_program()
        .args(["--guest", &hello, "--dir", &at("data")])
        .stderr(File::create(at("data/errors")).unwrap())
        .output();
    assert_eq!(output.unwrap().status.code(), Some(64));
    for granted in ["project", ""] {
        let mut dev = bare_program();
        dev.args(["dev", &at("project"), "--dir", &at(granted)]);
        assert_eq!(dev.output().unwrap().status.code(), Some(64), "{granted}");
    }
}

#[test]
fn a_file_with_another_name_in_the_folder_is_the_servers_own_too() {
    let folder = Folder::new();
    fs::create_dir(folder.join("data")).unwrap();
    fs::copy(guest("hello"), folder.join("app.wasm")).unwrap();
    fs::hard_link(folder.join("app.wasm"), folder.join("elsewhere.wasm")).unwrap();
    let setup = || setup(folder.join("app.wasm")).dir(&folder.join("data"));
    drop(setup().start());
    fs::hard_link(folder.join("app.wasm"), folder.join("data/app.wasm")).unwrap();
    let output = bare_program()
        .arg("--guest")
        .arg(folder.join("app.wasm"))
        .arg("--dir")
        .arg(folder.join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("another name there"), "{}", said(&output));
}

fn compiled(cache: &Path) -> PathBuf {
    let files = contents(cache).into_keys().filter(|path| path.extension().is_some_and(|it| it == "cwasm"));
    files.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).expect("it was kept")
}

#[test]
fn what_does_not_fit_in_the_cache_is_made_anew_with_one_line() {
    let folder = Folder::new();
    let cache = folder.join("cache");
    let start = |guest: &Path| setup(guest).option("--cache", &cache).options("--cores 1").start();
    let flip = |path: &Path, part: u64| {
        let mut file = File::options().read(true).write(true).open(path).unwrap();
        let at = file.metadata().unwrap().len() * part / 16;
        let byte = fs::read(path).unwrap()[at as usize];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[byte ^ 0x10]).unwrap();
    };
    let moved = folder.join("moved");
    type Change<'a> = Box<dyn Fn(&Path) + 'a>;
    let mut changes: Vec<Change<'_>> = vec![
        Box::new(|path| fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap()),
        Box::new(|path| File::options().write(true).open(path).unwrap().set_len(5000).unwrap()),
        Box::new(|path| {
            fs::rename(path, &moved).unwrap();
            symlink(&moved, path).unwrap();
        }),
        Box::new(|path| {
            let _ = fs::remove_file(&moved);
            fs::hard_link(path, &moved).unwrap();
        }),
        Box::new(|path| {
            fs::remove_file(path).unwrap();
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        Box::new(|path| {
            fs::set_permissions(path.with_file_name("key"), Permissions::from_mode(0o640)).unwrap()
        }),
        Box::new(|path| fs::write(path.with_file_name("key"), "none").unwrap()),
    ];
    changes.extend((0..16).map(|part| Box::new(move |path: &Path| flip(path, part)) as Box<dyn Fn(&Path)>));
    for name in ["hello", "hello-0.3"] {
        for change in &changes {
            drop(start(&guest(name)));
            change(&compiled(&cache));
            let server = start(&guest(name));
            assert_eq!(server.get("/").text(), "Hello World");
            server.wait_for_line("compiled anew");
            let server = start(&guest(name));
            assert_eq!(server.get("/").text(), "Hello World");
            assert_eq!(server.stop().log.matches("compiled anew").count(), 0);
        }
    }
}

#[test]
fn a_file_of_the_cache_that_changes_while_it_is_run_changes_nothing() {
    let folder = Folder::new();
    let cache = folder.join("cache");
    for name in ["hello", "hello-0.3"] {
        // Code that was found there, and code that was just made.
        for _ in 0..2 {
            let server = setup(guest(name)).option("--cache", &cache).options("--cores 1").start();
            let path = compiled(&cache);
            let kept = fs::read(&path).unwrap();
            fs::write(&path, vec![0xcc; kept.len()]).unwrap();
            assert_eq!(server.get("/").text(), "Hello World");
            File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
            for _ in 0..3 {
                assert_eq!(server.get("/").text(), "Hello World");
            }
            drop(server);
            fs::write(&path, kept).unwrap();
        }
    }
}

#[test]
fn a_cache_on_whose_way_others_can_write_is_not_used() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("open/cache")).unwrap();
    fs::set_permissions(folder.join("open"), Permissions::from_mode(0o777)).unwrap();
    let server = setup(guest("hello")).option("--cache", folder.join("open/cache")).start();
    assert_eq!(server.get("/").text(), "Hello World");
    let line = server.wait_for_line("cannot be used");
    assert!(line.contains(folder.join("open").to_str().unwrap()), "{line}");
    assert_eq!(contents(&folder.join("open")).len(), 0);
}

const HELLO: &str = "\
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [SAID]
";

#[test]
fn a_component_that_does_not_fit_is_built_anew_and_no_cache_is_needed_for_one() {
    let folder = Folder::new();
    fs::write(folder.join("app.py"), format!("SAID = b'hello'\n{HELLO}")).unwrap();
    let (app, output, cache) = (folder.join("app.py"), folder.join("app.wasm"), folder.join("cache"));
    let build = |cache: &Path| {
        let built = build(&app, &output, cache).output().unwrap();
        assert_eq!(built.status.code(), Some(0), "{}", said(&built));
        said(&built)
    };
    build(&cache);
    let kept: Vec<_> = contents(&cache.join("python")).into_iter().collect();
    let (component, content) =
        kept.iter().find(|(path, _)| path.extension().is_some_and(|it| it == "wasm")).unwrap();
    fs::write(component, &content[..content.len() / 2]).unwrap();
    let said = build(&cache);
    assert!(said.contains("built anew") && said.contains("Building "), "{said}");
    assert!(!build(&cache).contains("Building "));
    fs::write(folder.join("none"), "").unwrap();
    fs::remove_file(&output).unwrap();
    let said = build(&folder.join("none"));
    assert!(said.contains("cannot be used, the component is built at every start"), "{said}");
    assert!(output.exists());
}

#[test]
fn a_build_changes_nothing_but_what_it_makes() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("app/words")).unwrap();
    fs::create_dir_all(folder.join("home")).unwrap();
    let words = "\
import os, sys
SAID = []
def does(what, *arguments):
    try:
        what(*arguments)
        SAID.append('did ' + repr(arguments))
    except OSError:
        SAID.append('OSError')
def writes(path):
    with open(path, 'w') as file:
        file.write('#')
folders = [os.path.dirname(os.path.dirname(__file__))] + [path for path in sys.path if path[1:].isdigit()]
for folder in folders:
    for name in ['app.py', 'words/__init__.py', '.profile', '.bashrc', 'words/new.py', 'componentize_py/__init__.py']:
        if not folder.endswith(('/0', '/1')):
            does(writes, folder + '/' + name)
    for path in ['/../.profile', '/../home/.profile', '/../cache/key']:
        does(writes, folder + path)
own = folders[0]
does(os.remove, own + '/words/data')
does(os.rename, own + '/words/data', own + '/moved')
does(os.link, own + '/words/data', own + '/linked')
does(os.symlink, 'words', own + '/link')
does(os.mkdir, own + '/made')
does(os.truncate, own + '/words/data', 1)
SAID = ' '.join(sorted(set(SAID))).encode()
";
    fs::write(folder.join("app/words/__init__.py"), words).unwrap();
    fs::write(folder.join("app/words/data"), "data").unwrap();
    fs::write(folder.join("app/app.py"), format!("from words import SAID\n{HELLO}")).unwrap();
    let before = (contents(&folder.join("app")), tools());
    let output = build(&folder.join("app/app.py"), &folder.join("app.wasm"), &folder.join("cache"))
        .current_dir(folder.join("app"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(contents(&folder.join("home")), BTreeMap::new());
    assert!((contents(&folder.join("app")), tools()) == before);
    let names: Vec<_> = contents(&folder.0).into_keys().collect();
    assert!(names.iter().all(|path| !path.ends_with(".profile")), "{names:?}");
    let server = setup(folder.join("app.wasm")).options("--cores 1 --max-requests 0").start();
    assert_eq!(server.get("/").text(), "OSError");
}

/// The files of componentize-py.
fn tools() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = contents(&componentize());
    // The host's Python may keep there what it has compiled, for others.
    files.retain(|path, _| !path.components().any(|part| part.as_os_str() == "__pycache__"));
    files
}

/// Where componentize-py is. The first build on a machine installs it.
fn componentize() -> PathBuf {
    let find = || {
        let tools = fs::read_dir(server::tools()).ok()?.map(|entry| entry.unwrap().path());
        tools
            .into_iter()
            .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("componentize-py"))
    };
    find().unwrap_or_else(|| {
        let folder = Folder::new();
        let app = folder.join("app.py");
        fs::write(&app, format!("SAID = b'hello'\n{HELLO}")).unwrap();
        let built = build(&app, &folder.join("app.wasm"), &folder.join("cache")).output().unwrap();
        assert_eq!(built.status.code(), Some(0), "{}", said(&built));
        find().expect("it was installed")
    })
}

#[test]
fn tools_that_others_could_have_changed_are_not_run() {
    let folder = Folder::new();
    fs::write(folder.join("app.py"), format!("SAID = b'hello'\n{HELLO}")).unwrap();
    let (app, output, cache) = (folder.join("app.py"), folder.join("app.wasm"), folder.join("cache"));
    let run = || {
        let mut build = build(&app, &output, &cache);
        let built = build.arg("--offline").env_remove("WASM_SERVE_TOOLS").output().unwrap();
        assert_eq!(built.status.code(), Some(1));
        said(&built)
    };
    // Where it would be installed, it says by itself.
    let told = run();
    let tool = told.split("--target ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let module = Path::new(tool).join("componentize_py/__init__.py");
    fs::create_dir_all(module.parent().unwrap()).unwrap();
    let marker = folder.join("was-run");
    fs::write(&module, format!("open({:?}, 'w')\ndef script(): pass\n", marker.display().to_string()))
        .unwrap();
    let runs = || {
        let said = run();
        (marker.exists(), said)
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for path in [&module, module.parent().unwrap(), tool.as_ref(), &cache.join("tools"), &cache] {
        let before = fs::metadata(path).unwrap().permissions().mode();
        mode(path, before | 0o002);
        let (was_run, said) = runs();
        assert!(!was_run, "{}", path.display());
        let named = format!("{} can be written by others", path.display());
        assert!(said.contains(&named) && said.contains("remove"), "{said}");
        mode(path, before);
        // Only root can give it to another user.
        if chown(path, Some(OTHER_USER), None).is_ok() {
            let (was_run, said) = runs();
            assert!(!was_run, "{}", path.display());
            assert!(said.contains(&format!("{} belongs to another user", path.display())), "{said}");
            chown(path, Some(0), None).unwrap();
        }
    }
    // What is this user's alone is run: here by the host's Python, where it could write.
    let mut build = build(&app, &output, &cache);
    build.arg("--offline").env_remove("WASM_SERVE_TOOLS").output().unwrap();
    assert!(marker.exists());
}

/// Nobody, as most systems have it.
const OTHER_USER: u32 = 65534;

/// A folder that is granted read-only, with all of the server's own, and one in it that may be
/// written.
struct Fort {
    folder: Folder,
    own: PathBuf,
    open: PathBuf,
}

impl Fort {
    fn new() -> Fort {
        let folder = Folder::new();
        let (own, open) = (folder.join("own"), folder.join("open"));
        fs::create_dir_all(own.join("data")).unwrap();
        fs::create_dir(&open).unwrap();
        UnixListener::bind(own.join("socket")).unwrap();
        Fort { folder, own, open }
    }

    /// With paths as the guest may name them.
    fn targets(&self) -> Vec<String> {
        let files = contents(&self.own).into_keys();
        files.map(|path| path.strip_prefix(&self.folder.0).unwrap().to_str().unwrap().to_owned()).collect()
    }
}

/// What a guest is asked to do: a letter, the folders of two paths, and these. Says whether it
/// was done.
type Does = fn(SocketAddr, &str, u8, u8, &str, &str) -> bool;

fn program_does(server: SocketAddr, what: &str, one: u8, other: u8, from: &str, to: &str) -> bool {
    let mut connection = Connection::open(server);
    let reply = connection.post("/", format!("{what}{one}{other}{from}\0{to}\0").as_bytes());
    assert_eq!(reply.status, 200, "{what} {from} {to}");
    reply.text() == "00"
}

fn concurrent_guest_does(server: SocketAddr, what: &str, one: u8, other: u8, from: &str, to: &str) -> bool {
    let reply = client::get(server, &format!("/{what}/{one}{other}{from}?{to}"));
    assert_eq!(reply.status, 200, "{what} {from} {to}");
    reply.text() == "0"
}

/// The first folder of `--dir` is read-only and has everything in it, the second may be written.
const READ_ONLY: u8 = 3;
const OPEN: u8 = 4;

#[test]
fn a_program_with_the_widest_grants_changes_nothing_of_the_servers() {
    ["escape", "escape-0.2"].iter().for_each(|name| attack_from(name, program_does));
}

#[test]
fn a_guest_of_wasi_0_3_with_the_widest_grants_changes_nothing_of_the_servers() {
    attack_from("faults-0.3", concurrent_guest_does);
}

#[test]
fn a_path_that_no_system_knows_is_refused_whatever_is_in_it() {
    let folder = Folder::new();
    let server = setup(fault_guests::component("escape")).dir(&folder.0).options("--cores 1").start();
    let mut connection = Connection::open(server.address);
    // Neither is that it is no UTF-8 found out, which would say 25.
    for (what, byte) in [("u", b'a'), ("u", 0xff), ("r", b'a'), ("r", 0xff)] {
        let long = vec![byte; 5000];
        let of_two: [(&[u8], &[u8]); 2] = [(&long, b"x"), (b"x", &long)];
        for (from, to) in of_two.into_iter().take(if what == "r" { 2 } else { 1 }) {
            let body = [what.as_bytes(), b"33", from, b"\0", to, b"\0"].concat();
            assert_eq!(connection.post("/", &body).text(), "37", "{what} {byte}");
        }
    }
}

fn attack_from(program: &str, does: Does) {
    let fort = Fort::new();
    fs::copy(fault_guests::component(program), fort.own.join("app.wasm")).unwrap();
    let log = fort.own.join("log");
    let server = setup(fort.own.join("app.wasm"))
        .option("--cache", fort.own.join("cache"))
        .option("--logto", &log)
        .option("--dir", format!("{}::/host::ro", fort.folder.0.display()))
        .option("--dir", format!("{}::/open", fort.open.display()))
        .options("--disable-logging --cores 8")
        .start();
    // It can write where it may.
    fs::write(fort.open.join("own"), "").unwrap();
    assert!(does(server.address, "w", OPEN, OPEN, "own", ""));
    assert_eq!(fs::read(fort.open.join("own")).unwrap(), b"overwritten");
    let before = contents(&fort.own);
    let targets = fort.targets();
    assert!(targets.len() >= 5, "{targets:?}");
    for (number, target) in targets.iter().enumerate() {
        let real = fort.folder.join(target);
        let link = format!("link{number}");
        symlink(&real, fort.open.join(format!("absolute{number}"))).unwrap();
        does(server.address, "s", OPEN, OPEN, &format!("../{target}"), &link);
        for what in ["w", "t"] {
            for (folder, path) in [
                (READ_ONLY, target.clone()),
                (READ_ONLY, format!("open/../{target}")),
                (OPEN, format!("../{target}")),
                (OPEN, format!("/host/{target}")),
                (OPEN, real.to_str().unwrap().to_owned()),
                (OPEN, link.clone()),
                (OPEN, format!("absolute{number}")),
                (READ_ONLY, format!("open/{link}")),
            ] {
                assert!(!does(server.address, what, folder, OPEN, &path, ""), "{what} {path}");
            }
        }
        for what in ["l", "r"] {
            let to = format!("{what}{number}");
            for (from, path) in [(READ_ONLY, target.clone()), (OPEN, format!("../{target}"))] {
                assert!(!does(server.address, what, from, OPEN, &path, &to), "{what} {path}");
            }
            assert!(!does(server.address, "w", OPEN, OPEN, &to, ""));
            assert!(!does(server.address, what, OPEN, READ_ONLY, "own", target), "{what} to {target}");
            assert!(!does(server.address, what, OPEN, OPEN, "own", &format!("../{target}")));
        }
        assert!(!does(server.address, "u", READ_ONLY, OPEN, target, ""));
        assert!(!does(server.address, "u", OPEN, OPEN, &format!("../{target}"), ""));
        assert!(!does(server.address, "s", OPEN, READ_ONLY, "open/own", &format!("{target}-more")));
    }
    race(server.address, &fort, does);
    assert!(contents(&fort.own) == before);
}

/// A folder takes turns with a link that leads out of what may be written, while others write through it.
fn race(server: SocketAddr, fort: &Fort, does: Does) {
    fs::create_dir(fort.open.join("folder")).unwrap();
    fs::write(fort.open.join("folder/app.wasm"), "").unwrap();
    symlink("../own", fort.open.join("out")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..150 {
                does(server, "r", OPEN, OPEN, "folder", "turn");
                does(server, "r", OPEN, OPEN, "turn", "folder");
                does(server, "r", OPEN, OPEN, "out", "turn");
                does(server, "r", OPEN, OPEN, "turn", "out");
            }
            is_over.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    does(server, "w", OPEN, OPEN, "turn/app.wasm", "");
                    does(server, "l", OPEN, OPEN, "turn/app.wasm", "gotten");
                }
            });
        }
    });
}

#[test]
fn a_python_application_with_the_widest_grants_changes_nothing_of_the_servers() {
    let fort = Fort::new();
    // All tests keep theirs here, so that what others add is there, too.
    let shared = cache();
    let (above, name) = (shared.parent().unwrap(), shared.file_name().unwrap().to_str().unwrap());
    let server = setup_python(root().join("tests/fixtures/faults.py"))
        .option("--dir", format!("{}::/host::ro", fort.folder.0.display()))
        .option("--dir", format!("{}::/tests::ro", above.display()))
        .option("--dir", format!("{}::/open", fort.open.display()))
        .option("--logto", fort.own.join("log"))
        .options("--disable-logging --cores 1")
        .start();
    let before = contents(&fort.own);
    let kept = contents(&shared);
    let attack = format!(
        "\
import os
done = []
def does(what, *arguments):
    try:
        what(*arguments)
        done.append((what.__name__,) + arguments)
    except (OSError, ValueError):
        pass
def writes(path, how):
    with open(path, how) as file:
        file.write('overwritten')
targets = []
for top in ['/host/own', '/tests/{name}']:
    for folder, folders, files in os.walk(top):
        targets += [os.path.join(folder, name) for name in files + folders]
said = len(targets)
for number, target in enumerate(targets):
    for how in ['w', 'a', 'r+']:
        does(writes, target, how)
        does(writes, '/open/..' + target, how)
        does(writes, '/open/../../' + target, how)
    os.symlink('../' + target.split('/', 2)[2], '/open/link%d' % number)
    does(writes, '/open/link%d' % number, 'w')
    does(writes, '/host/open/link%d' % number, 'w')
    does(os.link, target, '/open/hard%d' % number)
    does(os.rename, target, '/open/moved%d' % number)
    does(os.remove, target)
    does(os.rmdir, target)
    does(os.truncate, target, 0)
    does(os.symlink, 'x', target + '-more')
    does(os.mkdir, target + '/more')
    does(os.utime, target, (1, 1))
    does(writes, '/open/own%d' % number, 'w')
    assert done.pop()[0] == 'writes'
    does(os.rename, '/open/own%d' % number, target)
    does(os.link, '/open/own%d' % number, target)
assert not done, done
"
    );
    let mut connection = Connection::open(server.address);
    let reply = connection.post("/does", attack.as_bytes());
    assert_eq!(reply.status, 200, "{}", fs::read_to_string(fort.own.join("log")).unwrap_or_default());
    assert!(reply.text().parse::<usize>().unwrap() > 3, "{}", reply.text());
    assert!(contents(&fort.own) == before);
    // Others may have removed some, and none is written twice with other content.
    let now = contents(&shared);
    assert!(kept.iter().all(|(path, content)| now.get(path).is_none_or(|it| it == content)));
    wait_for("the server to be there still", || (server.get("/hello").status == 200).then_some(()));
}
