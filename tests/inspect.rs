use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;

use crate::support::server::{bare_program, program, setup};
use crate::support::{Folder, fault_guests, guest, scripts};

/// What `inspect` should say: that it can be served, with these words among what it
/// tells, or why not.
enum Verdict {
    Good(&'static [&'static str]),
    Bad(&'static [&'static str]),
}

use Verdict::{Bad, Good};

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn ready(name: &str) -> Vec<u8> {
    fs::read(guest(name)).unwrap()
}

fn made(name: &str) -> Vec<u8> {
    fs::read(fault_guests::component(name)).unwrap()
}

/// A component that imports and exports instances without anything in them.
fn shell(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let imports = imports.iter().map(|name| format!("(import {name:?} (instance))")).collect::<String>();
    let exports =
        exports.iter().map(|name| format!("(export {name:?} (instance $empty))")).collect::<String>();
    wat(&format!("(component {imports} (instance $empty) {exports})"))
}

/// A core module that is a program, and imports functions that nobody has.
fn program_with(imports: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let import = |name: &str| format!("(import \"m\" {name:?} (func))");
    let imports: String = imports.into_iter().map(|name| import(name.as_ref())).collect();
    wat(&format!("(module {imports} (func (export \"_start\")))"))
}

/// The same as a component.
fn handler_with(imports: impl Iterator<Item = String>) -> Vec<u8> {
    let imports: String = imports.map(|name| format!("(import {name:?} (func))")).collect();
    wat(&format!("(component {imports} (instance $empty) (export {HANDLER:?} (instance $empty)))"))
}

/// A component whose export has a function without parameters and results.
fn other_function(export: &str, function: &str) -> Vec<u8> {
    wat(&format!(
        "(component
            (core module $module (func (export \"run\")))
            (core instance $code (instantiate $module))
            (func $run (canon lift (core func $code \"run\")))
            (instance $interface (export {function:?} (func $run)))
            (export {export:?} (instance $interface)))"
    ))
}

/// A guest whose callback has these exports; `$run` has neither parameters nor results.
fn with_callback(exports: &str) -> Vec<u8> {
    wat(&format!(
        "(component
            (import \"wasi:http/types@0.2.0\" (instance $types
                (export \"incoming-request\" (type (sub resource)))
                (export \"response-outparam\" (type (sub resource)))))
            (alias export $types \"incoming-request\" (type $request))
            (alias export $types \"response-outparam\" (type $out))
            (core module $module
                (func (export \"handle\") (param i32 i32))
                (func (export \"run\")))
            (core instance $code (instantiate $module))
            (func $handle (param \"request\" (own $request)) (param \"response-out\" (own $out))
                (canon lift (core func $code \"handle\")))
            (func $run (canon lift (core func $code \"run\")))
            (instance $handler (export \"handle\" (func $handle)))
            (instance $callback {exports})
            (export {HANDLER:?} (instance $handler))
            (export {CALLBACK:?} (instance $callback)))"
    ))
}

const CALLBACK: &str = "wasm-serve:deferred/callback@0.1.0";
const CALLBACK_ASYNC: &str = "wasm-serve:deferred/callback-async@0.1.0";
const TIMERS: &str = "wasm-serve:deferred/timers@0.1.0";
const HANDLER: &str = "wasi:http/incoming-handler@0.2.0";
const HANDLER_3: &str = "wasi:http/handler@0.3.0";

fn files() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    let hello = ready("hello");
    let mut damaged = hello.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    vec![
        // Guests.
        ("hello", hello.clone(), Good(&["component", "wasi:http/incoming-handler@0.2", "callback  none"])),
        ("hello-0.3", ready("hello-0.3"), Good(&["component", "wasi:http/handler@0.3"])),
        ("deferred", ready("deferred"), Good(&[CALLBACK, "the folders of --dir"])),
        ("deferred-0.3", ready("deferred-0.3"), Good(&[CALLBACK_ASYNC, "deferred calls, within the limits"])),
        ("echo", ready("echo"), Good(&["requests and responses"])),
        (
            "keyvalue",
            ready("keyvalue"),
            Good(&["the stores of --keyvalue", "the values of --config and --secret"]),
        ),
        ("faults", made("faults"), Good(&["--memory-limit: 128 MiB"])),
        // Programs.
        ("program", made("program"), Good(&["core module: a program", "CGI", "wasi_snapshot_preview1"])),
        ("program-0.2", made("program-0.2"), Good(&["component: a program", "schedules no deferred calls"])),
        (
            "program-in-c",
            fs::read(scripts::build("c/cgi", "programs-in-c").join("deferred.wasm")).unwrap(),
            Good(&["wasm_serve call_later", "deferred calls, within"]),
        ),
        (
            "start-with-parameter",
            wat("(module (func (export \"_start\") (param i32)))"),
            Bad(&["`_start` that is not a function without parameters"]),
        ),
        ("start-global", wat("(module (global (export \"_start\") i32 (i32.const 0)))"), Bad(&["`_start`"])),
        ("least-program", wat("(module (func (export \"_start\")))"), Good(&["a program"])),
        ("long-name", program_with([&"a".repeat(70_000), "b"]), Bad(&["m aaaa", "m b"])),
        (
            "thousands-of-imports",
            program_with((0..5000).map(|number| format!("f{number}"))),
            Bad(&["`m f0`", "and perhaps more"]),
        ),
        (
            "thousands-of-functions",
            handler_with((0..5000).map(|number| format!("f{number}"))),
            Bad(&["`f0`", "and perhaps more"]),
        ),
        // Components that lack something, or have too much.
        (
            "no-handler",
            shell(&[], &["example:a/b@1.0.0"]),
            Bad(&["wasi:http/proxy", "but example:a/b@1.0.0"]),
        ),
        ("no-export", wat("(component)"), Bad(&["but nothing"])),
        ("two-handlers", shell(&[], &[HANDLER, HANDLER_3]), Bad(&["exports both", "export one of them"])),
        ("two-callbacks", shell(&[], &[HANDLER, CALLBACK, CALLBACK_ASYNC]), Bad(&["exports both", CALLBACK])),
        ("no-callback", shell(&[TIMERS], &[HANDLER]), Bad(&["exports no callback", CALLBACK])),
        (
            "no-callback-for-later-timers",
            shell(&["wasm-serve:deferred/timers@0.1.7"], &[HANDLER]),
            Bad(&["exports no callback", CALLBACK]),
        ),
        ("empty-handler", shell(&[], &[HANDLER]), Bad(&[HANDLER, "without the function `handle`"])),
        ("other-handler", other_function(HANDLER, "handle"), Bad(&[HANDLER, "`handle`", "of another type"])),
        ("other-handler-0.3", other_function(HANDLER_3, "handle"), Bad(&[HANDLER_3, "of another type"])),
        ("other-program", other_function("wasi:cli/run@0.2.0", "run"), Bad(&["`run`", "of another type"])),
        ("callback", with_callback("(export \"other\" (func $run))"), Bad(&["without the function `run`"])),
        (
            "other-callback",
            with_callback("(export \"run\" (func $run))"),
            Bad(&[CALLBACK, "of another type"]),
        ),
        (
            "unknown-import",
            made("unknown-import"),
            Bad(&["example:unknown/thing@1.0.0", "do-it", "wac plug"]),
        ),
        (
            "several-unknown",
            wat("(component
            (import \"example:a/one@1.0.0\" (instance (export \"f\" (func))))
            (import \"example:a/two@1.0.0\" (instance (export \"g\" (func))))
            (instance $empty) (export \"wasi:http/incoming-handler@0.2.0\" (instance $empty)))"),
            Bad(&["example:a/one@1.0.0", "example:a/two@1.0.0", "does not offer"]),
        ),
        (
            "other-stores",
            wat("(component
            (import \"wasi:keyvalue/watcher@0.2.0-draft\" (instance (export \"f\" (func))))
            (import \"wasi:config/store@0.3.0\" (instance (export \"f\" (func))))
            (instance $empty) (export \"wasi:http/incoming-handler@0.2.0\" (instance $empty)))"),
            Bad(&["0.2.0-draft or 0.2.0-draft2", "build it for `wasi:config/store` 0.2.0-rc.1"]),
        ),
        (
            "draft",
            wat("(component
            (import \"wasi:http/types@0.2.0-rc-2023-10-18\" (instance (export \"f\" (func))))
            (instance $empty) (export \"wasi:http/incoming-handler@0.2.0\" (instance $empty)))"),
            Bad(&["wasi:http/types@0.2.0-rc-2023-10-18", "not for a draft"]),
        ),
        (
            "wrong-type",
            wat("(component
            (import \"wasm-serve:deferred/timers@0.1.0\"
                (instance (export \"cancel\" (func (param \"id\" string) (result bool)))))
            (instance $empty)
            (export \"wasi:http/incoming-handler@0.2.0\" (instance $empty))
            (export \"wasm-serve:deferred/callback@0.1.0\" (instance $empty)))"),
            Bad(&["`cancel` is of another type", "the folder `wit` of this version"]),
        ),
        ("big-memory", made("big-memory"), Bad(&["more than --memory-limit"])),
        ("huge-table", made("huge-table"), Good(&["wasi:io/streams@0.2"])),
        ("wrong-world", made("wrong-world"), Bad(&["exports neither"])),
        (
            "wit-package",
            wat("(component (type (component (export \"example:a/b@1.0.0\" (instance))))
            (export \"b\" (type 0)))"),
            Bad(&["WIT package", "no code"]),
        ),
        // Core modules.
        (
            "library",
            wat("(module (func (export \"add\")))"),
            Bad(&["without `_start`", "wasm-serve componentize"]),
        ),
        ("empty-module", wat("(module)"), Bad(&["without `_start`"])),
        (
            "unfinished",
            wat("(module (@custom \"component-type:app\" \"x\") (func (export \"cm32p2\")))"),
            Bad(&["not yet a component", "wasm-serve componentize"]),
        ),
        (
            "for-javascript",
            wat("(module (import \"wbg\" \"f\" (func)) (func (export \"_start\")))"),
            Bad(&["JavaScript", "wasm32-wasip2"]),
        ),
        (
            "old-wasi",
            wat("(module (import \"wasi_unstable\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
            (import \"env\" \"f\" (func)) (func (export \"_start\")))"),
            Bad(&["wasi_unstable fd_write", "env f", "for `wasi_snapshot_preview1`"]),
        ),
        (
            "wrong-wasi",
            wat(
                "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)) (func (export \"_start\")))",
            ),
            Bad(&["wasi_snapshot_preview1 fd_write", "another type"]),
        ),
        (
            "invalid-body",
            vec![
                0, b'a', b's', b'm', 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 7, 10, 1, 6, b'_', b's',
                b't', b'a', b'r', b't', 0, 0, 10, 5, 1, 3, 0, 0x6a, 0x0b,
            ],
            Bad(&["cannot be compiled"]),
        ),
        // What is no WebAssembly, or was.
        ("empty", Vec::new(), Bad(&["it is empty"])),
        ("magic", b"\0asm".to_vec(), Bad(&["cut off"])),
        ("half-magic", b"\0a".to_vec(), Bad(&["cut off"])),
        ("version", b"\0asm\x02\0\0\0".to_vec(), Bad(&["not valid WebAssembly"])),
        ("cut-off", hello[..hello.len() - 1000].to_vec(), Bad(&["cut off, or damaged"])),
        ("damaged", damaged, Bad(&["not valid WebAssembly", "build it again"])),
        ("wat", b";; a guest\n(module)".to_vec(), Bad(&["text form", "wasm-tools parse"])),
        ("wit", b"// ours\npackage a:b;\ninterface c {}".to_vec(), Bad(&["it is WIT"])),
        ("python", b"def application(environ, start_response): ...\n".to_vec(), Bad(&["--wsgi-file"])),
        ("text", "gr\u{fc}\u{df}e\n".into(), Bad(&["it is a text"])),
        ("elf", fs::read("/proc/self/exe").unwrap(), Bad(&["machine code"])),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), Bad(&["compressed", "unpack it"])),
        ("zip", b"PK\x03\x04\x14\0".to_vec(), Bad(&["compressed"])),
        ("zeros", vec![0; 100_000], Bad(&["is not WebAssembly"])),
        ("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), Bad(&["is not WebAssembly"])),
    ]
}

fn inspect(file: &Path) -> Output {
    let output = Command::new(program().get_program()).arg("inspect").arg(file).output();
    output.expect("the program can be started")
}

/// The last line has the verdict.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn each_file_gets_the_verdict_that_serving_it_gives() {
    let folder = Folder::new();
    let files = files();
    assert!(files.len() >= 30);
    let wrong: Vec<String> = files
        .into_iter()
        .filter_map(|(name, content, verdict)| {
            let file = folder.join(&format!("{name}.wasm"));
            fs::write(&file, content).unwrap();
            check(&file, &verdict).err().map(|wrong| format!("{name}: {wrong}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(file: &Path, verdict: &Verdict) -> Result<(), String> {
    let output = inspect(file);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.stderr.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let last = last_line(&output);
    let (code, words, said) = match verdict {
        Good(words) => (0, words, &text),
        Bad(words) => (1, words, &last),
    };
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    if output.status.code() != Some(code) || !missing.is_empty() {
        return Err(format!("{missing:?} is not in {text}"));
    }
    match verdict {
        Good(_) => {
            assert_eq!(last, "can be served");
            setup(file).start();
        }
        Bad(_) => {
            let refused = refusal(file);
            if last != format!("cannot be served: {refused}") {
                return Err(format!("{last}\nbut the server says: {refused}"));
            }
        }
    }
    Ok(())
}

/// Why the server does not serve it.
fn refusal(file: &Path) -> String {
    let output = program().args(["--http-socket", "127.0.0.1:0", "--guest"]).arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let reason = said.split_once(&format!("--guest {}: ", file.display())).map(|(_, reason)| reason);
    reason.unwrap_or_else(|| panic!("no reason in {said}")).trim_end().replace('\n', " ")
}

#[test]
fn what_cannot_be_read_is_said() {
    let folder = Folder::new();
    let output = inspect(&folder.0);
    assert_eq!(output.status.code(), Some(1));
    assert!(last_line(&output).contains("a folder"), "{}", last_line(&output));
    for (file, words) in [
        (folder.join("nothing"), "there is no such file"),
        (PathBuf::from("-"), "standard input is not read"),
    ] {
        let output = inspect(&file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{file:?}");
        assert!(said.contains(words), "{file:?}: {said}");
    }
    assert_eq!(bare_program().arg("inspect").status().unwrap().code(), Some(64));
}

#[test]
fn a_smaller_memory_limit_is_told_of() {
    let output = Command::new(program().get_program())
        .args(["inspect", "--memory-limit", "64K"])
        .arg(guest("hello"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(last_line(&output).contains("more than --memory-limit 65536"), "{}", last_line(&output));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of a guest, there is a verdict.
    #[test]
    fn no_damage_makes_it_panic(
        name in prop::sample::select(vec!["hello", "deferred-0.3"]),
        end in 0.0..1.0f64,
        is_cut: bool,
        changes in prop::collection::vec((0.0..1.0f64, any::<u8>()), 0..8),
    ) {
        let mut content = ready(name);
        for (at, byte) in changes {
            let at = (at * content.len() as f64) as usize;
            content[at] = byte;
        }
        if is_cut {
            content.truncate((end * content.len() as f64) as usize);
        }
        let folder = Folder::new();
        let file = folder.join("damaged.wasm");
        fs::write(&file, content).unwrap();
        let output = inspect(&file);
        prop_assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        prop_assert!(last_line(&output).starts_with("can"), "{output:?}");
    }
}
