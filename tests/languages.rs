//! The same application in each language, and what it does: a row for a language, a
//! column for a behaviour. `guests/README.md` has the table.

mod behaviours;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use self::behaviours::BEHAVIOURS;
use crate::support::client::Connection;
use crate::support::server::{bare_program, setup, setup_dev};
use crate::support::upstream::Upstream;
use crate::support::{Folder, root, scripts};

struct Language {
    /// As `wasm-serve new --lang` has it.
    name: &'static str,
    title: &'static str,
    wasi: &'static str,
    /// Where the example is, within `guests`.
    folder: &'static str,
    /// The databases of which tests have shown that they can be used.
    stores: &'static str,
}

const LANGUAGES: [Language; 7] = [
    language("rust", "Rust", "0.2", "rust/example", "–"),
    language("python", "Python", "0.2", "python/example", "PostgreSQL, Redis, SQLite"),
    language("c", "C", "0.2", "c", "–"),
    language("go", "Go", "0.2", "go", "–"),
    language("javascript", "JavaScript (StarlingMonkey)", "0.2", "javascript", "–"),
    language("javascript-quickjs", "JavaScript (QuickJS)", "0.3", "javascript-quickjs", "–"),
    language("assemblyscript", "AssemblyScript", "0.2", "assemblyscript", "–"),
];

/// What a language, or its example, cannot do: its name, the behaviour's, and why.
const CANNOT: [(&str, &str, &str); 4] = [
    (
        "javascript",
        "repeated fields",
        "its `Headers` joins fields of one name, as the Fetch standard has it, and StarlingMonkey sends the result",
    ),
    ("c", "fetches", BY_HAND),
    ("assemblyscript", "fetches", BY_HAND),
    (
        "javascript-quickjs",
        "fetches",
        "the engine has no `fetch`, and its tool cannot import `wasi:http/client`",
    ),
];

const BY_HAND: &str =
    "its example does not; `wasi:http/outgoing-handler` is there, and is to be called by hand";

const fn language(
    name: &'static str,
    title: &'static str,
    wasi: &'static str,
    folder: &'static str,
    stores: &'static str,
) -> Language {
    Language { name, title, wasi, folder, stores }
}

macro_rules! languages {
    ($($name:ident)*) => {$(
        mod $name {
            /// `guests/LANG` does what the table says.
            #[test]
            fn example() {
                super::example(stringify!($name));
            }

            /// What a new user does: `new`, `dev`, `curl`.
            #[test]
            fn starter() {
                super::starter(stringify!($name));
            }
        }
    )*};
}

languages!(rust python c go javascript javascript_quickjs assemblyscript);

fn of_name(test: &str) -> &'static Language {
    let name = test.replace('_', "-");
    LANGUAGES.iter().find(|language| language.name == name).expect("a language of the table")
}

fn example(test: &str) {
    let language = of_name(test);
    let guest = scripts::build(language.folder, &format!("example-{}.wasm", language.name));
    let wrong: Vec<String> = BEHAVIOURS
        .iter()
        .filter_map(|&(behaviour, _, check)| {
            let holds = catch_unwind(AssertUnwindSafe(|| check(&guest))).is_ok();
            let why = cannot(language, behaviour);
            match (holds, why) {
                (true, None) | (false, Some(_)) => None,
                (false, None) => Some(format!("{behaviour}: does not hold")),
                (true, Some(_)) => Some(format!("{behaviour}: holds, though CANNOT says it does not")),
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", language.title);
}

fn cannot(language: &Language, behaviour: &str) -> Option<&'static str> {
    let of_both = |(name, cannot, _): &&(&str, &str, &str)| *name == language.name && *cannot == behaviour;
    CANNOT.iter().find(of_both).map(|(_, _, why)| *why)
}

fn starter(test: &str) {
    let language = of_name(test);
    let folder = Folder::new();
    let project = folder.join("hello");
    let new = bare_program().args(["new", "--lang", language.name]).arg(&project).output().unwrap();
    assert!(new.status.success(), "new says: {}", String::from_utf8_lossy(&new.stderr));
    let server = {
        let variables = if language.name == "rust" { scripts::rust_variables() } else { Vec::new() };
        let _alone = scripts::alone(language.folder);
        setup_dev(&project).envs(variables).start()
    };
    let reply = server.get("/somewhere");
    assert_eq!((reply.status, reply.text().trim_end()), (200, "Hello World"));
    server.wait_for_line("deferred: /somewhere");
    // The five seconds until then are enough for a second build to have begun.
    assert!(!server.said("Building "), "it is built once");
}

/// What Go's `http.Client` can do by our transport, beside what its example shows.
#[test]
fn clients_of_go_send_bodies_and_keep_deadlines() {
    let guest = scripts::build_fixture("go", "app.go", "fetch.go");
    let upstream = Upstream::start(|asked, stream| {
        if asked.head[0].contains("/silent") {
            std::thread::sleep(Duration::from_secs(5));
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", asked.body.len())?;
        stream.write_all(&asked.body)
    });
    let url = format!("http://{}", upstream.address);
    let server = setup(guest).options(&format!("--cores 2 --allow-outbound {url}")).start();
    for length in [0, 1, 3 << 20] {
        let body = vec![b'x'; length];
        let reply = Connection::open(server.address).post(&format!("/pass?url={url}"), &body);
        let told = reply.field("x-length").map(str::to_owned);
        assert!(reply.complete && reply.body == body, "{length}: {}", reply.body.len());
        assert_eq!(told, Some(length.to_string()));
    }
    let answer = |path: &str| server.get(path).text().to_owned();
    assert!(answer(&format!("/break?url={url}")).ends_with("it is broken"));
    let late = answer(&format!("/wait?url={url}/silent"));
    assert!(late.starts_with("true ") && late.contains("context deadline exceeded"), "{late}");
    assert_eq!(answer(&format!("/many?url={url}")), "many");
    assert!(upstream.asked().iter().all(|asked| asked.body != b"half"));
    assert!(answer(&format!("/host?url={url}")).ends_with("the host of a request is that of its URL"));
}

#[test]
fn the_document_has_the_table() {
    let table = table();
    println!("{table}");
    let readme = fs::read_to_string(root().join("guests/README.md")).unwrap();
    assert!(readme.contains(&table), "guests/README.md needs this table:\n{table}");
}

fn table() -> String {
    let mut table = String::from("| | WASI |");
    for (behaviour, _, _) in BEHAVIOURS {
        table += &format!(" {behaviour} |");
    }
    table += &format!(" stores |\n|---|---|---|{}\n", "---|".repeat(BEHAVIOURS.len()));
    let mut notes = String::new();
    let mut notes_count = 0;
    for language in &LANGUAGES {
        table += &format!("| {} | {} |", language.title, language.wasi);
        for (behaviour, _, _) in BEHAVIOURS {
            match cannot(language, behaviour) {
                None => table += " yes |",
                Some(why) => {
                    notes_count += 1;
                    table += &format!(" no ({notes_count}) |");
                    notes += &format!("\n{notes_count}. {}, {behaviour}: {why}", language.title);
                }
            }
        }
        table += &format!(" {} |\n", language.stores);
    }
    table += "\n";
    for (behaviour, meaning, _) in BEHAVIOURS {
        table += &format!("- *{behaviour}*: {meaning}\n");
    }
    table += "- *stores*: databases that were tried, from a request and from a deferred call, or within a folder; – is none yet\n";
    table + &notes
}
