//! How the code of the host is laid out: `host/README.md` says it, and here it is held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::root;

const FILE_LINES_MAX: usize = 400;

#[test]
fn the_map_names_every_file_and_no_other() {
    let named: BTreeSet<String> =
        code(&section("Map")).filter(|name| name.ends_with(".rs")).map(str::to_owned).collect();
    let files: BTreeSet<String> = Sources::of("host/src").files.into_keys().collect();
    assert_eq!(named, files);
}

/// What a room names of another one, it names downward.
#[test]
fn rooms_name_only_rooms_on_lower_floors() {
    let floors = floors();
    let sources = Sources::of("host/src");
    let rooms: BTreeSet<&str> = sources.files.keys().map(|file| room(file)).collect();
    let (mut wrong, mut named) = (Vec::new(), 0);
    for (file, text) in &sources.files {
        let from = room(file);
        let named_by_file = paths(&without_comments(without_tests(text)));
        let others = named_by_file.iter().filter_map(|path| absolute(file, path).into_iter().next());
        for to in others.filter(|to| to != from && rooms.contains(to.as_str())) {
            named += 1;
            let (Some(above), Some(below)) = (floors.get(from), floors.get(&to)) else {
                panic!("{from} or {to} is on no floor");
            };
            if below <= above {
                wrong.push(format!("{file} names {to}, which is not below {from}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named > 100);
}

#[test]
fn no_files_name_each_other_in_a_circle() {
    for folder in ["host/src", "host/benches/peers"] {
        let mut names = Sources::of(folder).names();
        assert!(names.len() > 10);
        // What names nothing that is left is in no circle.
        loop {
            let left: BTreeSet<String> = names.keys().cloned().collect();
            names.values_mut().for_each(|named| named.retain(|file| left.contains(file)));
            names.retain(|_, named| !named.is_empty());
            if names.len() == left.len() {
                break;
            }
        }
        // What nothing that is left names leads into a circle, but is in none.
        loop {
            let named: BTreeSet<String> = names.values().flatten().cloned().collect();
            let before = names.len();
            names.retain(|file, _| named.contains(file));
            if names.len() == before {
                break;
            }
        }
        assert!(names.is_empty(), "{names:#?}");
    }
}

#[test]
fn no_file_is_long() {
    let sources = Sources::of("host/src");
    let lines = sources.files.iter().map(|(file, text)| (text.lines().count(), file));
    let long: Vec<_> = lines.filter(|(lines, _)| *lines > FILE_LINES_MAX).collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// The room of a file: its folder, or itself.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The floor of each room, counted from the top.
fn floors() -> BTreeMap<String, usize> {
    let section = section("Rooms and floors");
    let mut floors = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (Some(Ok(floor)), Some(rooms)) = (cells.next().map(str::parse::<usize>), cells.next()) else {
            continue;
        };
        floors.extend(code(rooms).map(|room| (room.to_owned(), floor)));
    }
    // Fuzzers are no part of the program.
    floors.insert("fuzzing".to_owned(), 0);
    // The list of the rooms.
    floors.insert("lib".to_owned(), 0);
    floors
}

fn section(name: &str) -> String {
    let readme = fs::read_to_string(root().join("host/README.md")).unwrap();
    let section = readme.split(&format!("\n## {name}\n")).nth(1).expect("a section of this name");
    section.split("\n## ").next().unwrap().to_owned()
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

/// The files of a program, each with its text.
struct Sources {
    files: BTreeMap<String, String>,
}

impl Sources {
    fn of(folder: &str) -> Sources {
        let (folder, mut files) = (root().join(folder), BTreeMap::new());
        list(&folder, &folder, &mut files);
        Sources { files }
    }

    /// Which files each of them names, by `use` or by a path.
    fn names(&self) -> BTreeMap<String, BTreeSet<String>> {
        let root = |file: &&String| matches!(file.as_str(), "lib.rs" | "main.rs");
        let mut names = BTreeMap::new();
        for (file, text) in self.files.iter().filter(|(file, _)| !root(file)) {
            let mut named = BTreeSet::new();
            for path in paths(&without_comments(without_tests(text))) {
                named.extend(self.file_of(&absolute(file, &path)).filter(|named| *named != file).cloned());
            }
            named.retain(|file| !root(&file));
            names.insert(file.clone(), named);
        }
        names
    }

    /// The file of the innermost module that is named by a path.
    fn file_of(&self, path: &[String]) -> Option<&String> {
        let prefixes = (1..=path.len()).rev().map(|length| path[..length].join("/"));
        let mut files = prefixes.flat_map(|name| [format!("{name}.rs"), format!("{name}/mod.rs")]);
        files.find_map(|file| self.files.get_key_value(&file).map(|(file, _)| file))
    }
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect()
}

fn list(folder: &Path, base: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, base, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(base).unwrap().to_str().unwrap();
            files.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
        }
    }
}

/// All paths in a file that begin with `crate`, `self` or `super`, as they are there; of
/// `a::{b, c}` both.
fn paths(code: &str) -> Vec<String> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for start in ["crate::", "wasm_serve::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|before| is_of_name(before) || before == ':') {
                spread("", &code[at..], &mut paths);
            }
        }
    }
    paths
}

/// Adds the paths at the beginning of `code`, behind `before`, and returns what follows.
fn spread<'a>(before: &str, code: &'a str, paths: &mut Vec<String>) -> &'a str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(code.len());
    let path = format!("{before}{}", &code[..end]);
    let Some(mut rest) = code[end..].strip_prefix('{') else {
        paths.push(path);
        return &code[end..];
    };
    loop {
        rest = spread(&path, rest.trim_start(), paths);
        // What is left of a path is another name for it.
        let Some(next) = rest.find([',', '}', ';']) else { return "" };
        let is_last = !rest[next..].starts_with(',');
        rest = rest[next + 1..].trim_start();
        match rest.strip_prefix('}') {
            _ if is_last => return rest,
            Some(after) => return after,
            None => {}
        }
    }
}

/// The modules of a path that stands in `file`, from the root.
fn absolute(file: &str, path: &str) -> Vec<String> {
    let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let mut modules: Vec<String> = module.split('/').map(str::to_owned).collect();
    for name in path.split("::").filter(|name| !name.is_empty()) {
        match name {
            "crate" | "wasm_serve" => modules.clear(),
            "super" => drop(modules.pop()),
            "self" => {}
            _ => modules.push(name.to_owned()),
        }
    }
    modules
}

#[test]
fn paths_are_found_where_they_stand() {
    let found = paths("use crate::a::{self, b::{C, D as E}, f}; x(super::g::H::new()); use self::i;");
    let expected =
        ["crate::a::self", "crate::a::b::C", "crate::a::b::D", "crate::a::f", "self::i", "super::g::H::new"];
    assert_eq!(found, expected);
    assert_eq!(absolute("a/b.rs", "super::c::D"), ["a", "c", "D"]);
    assert_eq!(absolute("a/mod.rs", "self::c"), ["a", "c"]);
}
