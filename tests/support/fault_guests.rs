//! Guests that break something, made from text when a test needs them: small
//! enough to be read, and exact about what they do and when.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where texts are in a guest's memory; `basics.wat` has the whole order.
const TEXTS: Range<usize> = 1024..8192;

/// Makes the guest of `tests/fixtures/NAME.wat` and gives its file.
///
/// `faults`, for `wasi:http` 0.2. Capitals stand for a decimal number.
///
/// | path | what happens |
/// |---|---|
/// | `/hello` | `Hello World`, with its length; the request's body is not read |
/// | `/count` | how many times this instance was asked that, from 1 |
/// | `/spin`, `/wait` | computes, waits for ever |
/// | `/sleep/MS` | `slept`, after that time |
/// | `/spin-after-response`, `/spin-after-chunked-response`, `/wait-after-response` | a whole response, with or without its length, and then for ever |
/// | `/sleep-after-response/MS` | a whole response, then logs `tail done` after that time |
/// | `/trap`, `/trap-after-response`, `/trap-after-chunked-response` | traps, before or after a whole response |
/// | `/trap-in-body/MS`, `/trap-in-sized-body/MS` | `partial`, and traps after that time; chunked, or of 100 bytes |
/// | `/trap-after-sized-body` | `partial`, with its length, and traps before its end |
/// | `/unfinished-body` | `partial`, chunked, and drops the body |
/// | `/short-body`, `/long-body` | 7 bytes of 100, 11 bytes of 5 |
/// | `/no-response`, `/drop-outparam`, `/drop-outparam-then-spin` | returns without a response |
/// | `/error-code` | `internal-error` with the text `secret of the guest` |
/// | `/grow`, `/grow-or-trap` | grows memory until it is refused, then answers the pages, or traps |
/// | `/grow-and-wait` | the same, and then waits for ever |
/// | `/table-grow` | the same with a table, answers the elements |
/// | `/recurse`, `/copy-out-of-bounds` | traps |
/// | `/copy`, `/fill` | copies 32 MiB, fills 60 MiB, again and again; traps if it cannot have 64 MiB |
/// | `/body/BLOCKS` | so many times 4096 bytes, chunked |
/// | `/endless-body` | chunks of 4096 bytes for ever |
/// | `/slow-body` | 30 bytes, one every 100 ms |
/// | `/read-body` | the length of the request's body, or `error` |
/// | `/status/N` | answers with that status, or 400 if it is not taken |
/// | `/scheme` | `http` or `https` |
/// | `/header-newline`, `/header-forbidden` | sets such a header, answers `ok` or the error's name |
/// | `/header-random`, `/header-huge`, `/header-flood` | a name that is not UTF-8, a value of 64 MiB, a million headers |
/// | `/resource-flood` | makes a million resources, answers `ok` |
/// | `/fields-flood`, `/small-fields-flood`, `/bodies-flood` | makes the server hold ever more: fields of 127,000 bytes in one value or in many, bodies that are not sent |
/// | `/log/N`, `/log` | prints `line 0` to `line N-1`, each in three pieces, answers `logged`; without N for ever |
/// | `/log-long/N` | prints a line of N times 4096 `x` |
/// | `/log-unfinished` | prints `unfinished` without a line feed |
/// | `/forge` | prints lines that look like those of the server, with `forged` in each |
/// | `/log-control` | prints control characters to standard error, between `red` and `end` |
/// | any other | 404 |
///
/// `faults-0.3`, for `wasi:http` 0.3: `/hello` (chunked), `/spin`, `/wait`, `/trap`,
/// `/trap-in-body/MS`, `/wait-in-body`, `/trap-after-response`, `/trap-after-sized-body`, `/trap-before-trailers`,
/// `/trap-before-trailers-of-nothing`, `/spin-before-trailers`, `/wait-before-trailers`, `/spin-after-response`,
/// `/wait-after-response`, `/no-response`,
/// `/body/BLOCKS` (and one byte), `/short-body`, `/long-body`, `/status/N`, `/scheme`,
/// `/forge`, `/flood` (prints for ever), `/fields-flood`, `/responses-flood` and
/// `/error-code`; traps at any other path. With a folder as for `files`: `/open-files`,
/// `/list-folder`, `/lock`, `/lock-and-spin`; numbers, as the text says. `/w`, `/t`,
/// `/l`, `/r`, `/s` and `/u` do to files what those letters do in `escape`.
///
/// `deferred-faults`, for 0.2, and `/hello`:
///
/// | path | what happens |
/// |---|---|
/// | `/later/MS/PAYLOAD` | schedules; the id, or the error and its value, such as `payload-too-large 65536` |
/// | `/later-than-body/MS/PAYLOAD` | the same, when the request's whole body has come |
/// | `/delay/NANOSECONDS/PAYLOAD` | the same, for delays of any size |
/// | `/payload/BYTES` | the same, with a payload of that size, in an hour |
/// | `/many/CALLS/MS/PAYLOAD` | schedules so many, or until one is refused; the last id, or the error. Without a payload, `count` |
/// | `/cancel/ID` | `true` or `false` |
/// | `/later-then-trap/MS/PAYLOAD`, `/later-then-spin/…`, `/later-then-wait/…` | schedules, and does not answer |
///
/// Its callback does what the payload says: `ok` prints `ran ok`, `count` does
/// nothing, `trap`, `spin`, `wait`, `sleep` (200 ms), `error` (the message is `no`),
/// `again` and `double` (schedules itself with delay 0, once or twice). It prints
/// any other payload, which may have 4096 bytes, as a line.
///
/// `program`, a core module, and `program-0.2`, a component, serve by CGI:
///
/// | path | what happens |
/// |---|---|
/// | `/env`, and any path with a query that begins with `env` | the environment, each variable ended by a zero |
/// | `/echo` | the request's body, piece by piece |
/// | `/teapot` and any other | status 418 with `X-Tea: green` |
/// | `/redirect` | `Location: /elsewhere`, and no status |
/// | `/sized`, `/short`, `/long` | `half`, with its Content-Length, or with 9, or with 3 |
/// | `/status-999`, `/status-103` | such a status |
/// | `/connection` | `half`, with `Connection: close`, `Keep-Alive`, `TE` and `X-Mine: 1` |
/// | `/big`, `/pieces` | 32 MiB; 100 pieces of 1000 bytes |
/// | `/nonsense` | what is no head |
/// | `/silent`, `/exit` | nothing, and ends with 0 or 3 |
/// | `/whole-exit` | `half`, with its Content-Length, and ends with 3 |
/// | `/half`, `/zero` | `half`, and ends with 4 or 0 |
/// | `/trap`, `/spin` | traps, computes for ever |
/// | `/error` | prints `the error` to standard error |
/// | `/print`, `/flood` | prints the request's body to standard error, once or for ever |
/// | `/later` | schedules the request's body in 5 s; the id, or an error below zero |
/// | `/cancel` | cancels the id in the request's body; 1 or 0 |
/// | `/outside` | schedules a payload that is not in its memory |
///
/// Called back, it prints `deferred ` and the payload, and ends with 7 if that starts
/// with `!`.
///
/// `files`, a core module, and `files-0.2`, a component, serve by CGI, and want a folder
/// with `file` and `folder`. Numbers that they answer end in a space.
///
/// | path | what happens |
/// |---|---|
/// | `/o`, `/f` | opens the file, the folder, until it is refused, or 9,000 times; how many, and the error |
/// | `/c` | opens and closes the file 9,000 times; the errors |
/// | `/l` | lists its folder, then `folder`: entries with `.` and `..`, the sum of the lengths of their names, the error |
/// | `/r` | asks for 60 MiB of random bytes; the error |
/// | `/m` | fills 60 MiB of memory again and again |
/// | `/k`, `/u` | makes the folder `file.lock` twice and asks for it: three errors, and its kind; then spins, or removes it twice: two errors |
///
/// `escape`, a core module, and `escape-0.2`, a component, serve by CGI and do to files what
/// the request's body says.
///
/// `huge`, a program that does nothing of use, takes long to compile.
///
/// The others: `async-inside` answers `/hello` and `/set`; `spin-in-start` never becomes an instance; `huge-table` starts with
/// ten million elements and uses them at `/fill`; the rest is refused at start-up:
/// `big-memory`, `core-module`, `timers-without-callback`, `unknown-import`,
/// `wrong-world`.
pub fn component(name: &str) -> PathBuf {
    let made = make(name).and_then(|bytes| write(name, &bytes));
    made.unwrap_or_else(|error| panic!("the guest {name}: {error:?}"))
}

/// The text of a guest, and the world that it is built for, if any.
fn source(name: &str) -> (&'static str, Option<&'static str>) {
    const PROXY: &str = "include wasi:http/proxy@0.2.12;";
    const DEFERRED: &str = "include wasm-serve:deferred/proxy@0.1.0;";
    match name {
        "faults" => (include_str!("../fixtures/faults.wat"), Some(PROXY)),
        "faults-0.3" => {
            const WORLD: &str = "include wasi:http/service@0.3.0; include wasi:filesystem/imports@0.3.0;";
            (include_str!("../fixtures/faults-0.3.wat"), Some(WORLD))
        }
        "deferred-faults" => (include_str!("../fixtures/deferred-faults.wat"), Some(DEFERRED)),
        "spin-in-start" => (include_str!("../fixtures/spin-in-start.wat"), Some(PROXY)),
        "async-inside" => (include_str!("../fixtures/async-inside.wat"), Some(PROXY)),
        "arrays" => (include_str!("../fixtures/arrays.wat"), Some(PROXY)),
        "huge-table" => (include_str!("../fixtures/huge-table.wat"), Some(PROXY)),
        "big-memory" => (include_str!("../fixtures/big-memory.wat"), Some(PROXY)),
        "timers-without-callback" => (
            include_str!("../fixtures/timers-without-callback.wat"),
            Some("include wasi:http/proxy@0.2.12; import wasm-serve:deferred/timers@0.1.0;"),
        ),
        "unknown-import" => (
            include_str!("../fixtures/unknown-import.wat"),
            Some("include wasi:http/proxy@0.2.12; import example:unknown/thing@1.0.0;"),
        ),
        "wrong-world" => (include_str!("../fixtures/wrong-world.wat"), Some("export run: func();")),
        "program" | "program-0.2" => (include_str!("../fixtures/program.wat"), None),
        "files" | "files-0.2" => (include_str!("../fixtures/files.wat"), None),
        "escape" | "escape-0.2" => (include_str!("../fixtures/escape.wat"), None),
        "core-module" => (include_str!("../fixtures/core-module.wat"), None),
        _ => panic!("there is no guest of this name"),
    }
}

fn make(name: &str) -> Result<Vec<u8>> {
    if name == "huge" {
        return Ok(wat::parse_str(huge())?);
    }
    let (text, world) = source(name);
    match name {
        "program-0.2" => return adapted(&wat::parse_str(without_timers(text))?),
        "files-0.2" | "escape-0.2" => return adapted(&wat::parse_str(text)?),
        _ => {}
    }
    let mut module = wat::parse_str(expand(text))?;
    let Some(world) = world else { return Ok(module) };
    let mut wit = Resolve::default();
    wit.push_dir(super::root().join("wit"))?;
    let package = wit.push_str(
        "guest.wit",
        &format!(
            "package test:guest;
             package example:unknown@1.0.0 {{ interface thing {{ do-it: func(); }} }}
             world guest {{ {world} }}"
        ),
    )?;
    let world = wit.select_world(&[package], Some("guest"))?;
    embed_component_metadata(&mut module, &wit, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().validate(true).module(&module)?.encode()
}

/// A component has no way to defer by what core modules import.
fn without_timers(text: &str) -> String {
    let without = |text: &str, name: &str, body: &str| {
        let import = format!("(import \"wasm_serve\" \"{name}\" (func ");
        let (before, after) = text.split_once(&import).expect("it is imported");
        let (kind, after) = after.split_once("))\n").expect("it has a type");
        format!("{before}{after}").replacen(
            "\n  (global ",
            &format!("\n  (func {kind} {body})\n  (global "),
            1,
        )
    };
    let text = without(text, "call_later", "(i64.const -4)");
    without(&text, "cancel", "(i32.const 0)")
}

/// A program as a component.
fn adapted(module: &[u8]) -> Result<Vec<u8>> {
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER;
    let name = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
    ComponentEncoder::default().module(module)?.adapter(name, adapter)?.encode()
}

/// A program with one function that is so long that compiling it takes much.
fn huge() -> String {
    let step = |number: u32| {
        let (from, to) = (number % 3, (number + 1) % 3);
        format!(
            "(local.set {to} (i32.load (i32.and (i32.add (local.get {from}) (i32.const {number})) (i32.const 1023))))\n"
        )
    };
    let steps: String = (0..200_000).map(step).collect();
    format!("(module (memory (export \"memory\") 1) (func (export \"_start\") (local i32 i32 i32) {steps}))")
}

/// Puts the file in its place at once: other threads and other processes may be
/// making the same guest.
fn write(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault-guests");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.wasm"));
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("{name}-{}-{number}", std::process::id()));
    fs::write(&unfinished, bytes).with_context(|| unfinished.display().to_string())?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// Fills in what the texts of guests have in common: `(prelude)`, `(basics)`, and
/// for `(text "…")` the address and the length of the text, which is put in
/// `(texts)`.
fn expand(text: &str) -> String {
    let text = text.replace("(prelude)", include_str!("../fixtures/prelude.wat"));
    let text = text.replace("(basics)", concat!(include_str!("../fixtures/basics.wat"), "(dispatch)"));
    let text = text.replace("(dispatch)", &dispatch(&text));
    let mut pieces = text.split("(text \"");
    let mut expanded = pieces.next().unwrap_or_default().to_owned();
    let mut texts = String::new();
    let mut at = TEXTS.start;
    for piece in pieces {
        let (literal, rest) = piece.split_once("\")").expect("a text ends with a quote and a parenthesis");
        let bytes = literal_bytes(literal);
        expanded += &format!("(i32.const {at}) (i32.const {bytes}){rest}");
        texts += literal;
        at += bytes;
    }
    assert!(at <= TEXTS.end, "there is no room for so many texts");
    expanded.replace("(texts)", &format!("\"{texts}\""))
}

/// The bytes that a literal stands for. After a backslash come two digits of a
/// byte, or a letter.
fn literal_bytes(literal: &str) -> usize {
    let mut pieces = literal.split('\\');
    let first = pieces.next().map_or(0, str::len);
    let is_byte = |piece: &str| piece.len() >= 2 && piece.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    first + pieces.map(|piece| piece.len() - usize::from(is_byte(piece))).sum::<usize>()
}

/// Calls the function that is named as the request's path.
fn dispatch(text: &str) -> String {
    let names = text.split("(func $/").skip(1).map(|function| {
        let end = function.find([' ', ')', '\n']).expect("a function has an end");
        &function[..end]
    });
    let cases = names
        .map(|name| format!("(if (call $path_is (text \"/{name}\")) (then (return (call $/{name}))))\n"));
    format!("(func $dispatch {} (call $not_found))", cases.collect::<String>())
}
