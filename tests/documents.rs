//! What the documents are to be: short where a reader begins, true about options, and
//! without a link that leads nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::root;

const README_BYTES_MAX: usize = 12 << 10;
const SENTENCE_WORDS_MAX: usize = 40;
const SENTENCE_WORDS_MEDIAN_MAX: usize = 14;

#[test]
fn the_readme_is_short_and_so_are_its_sentences() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut sentences = sentences(&readme);
    sentences.sort_by_key(|sentence| words(sentence));
    let longest = sentences.last().expect("there are sentences");
    let median = words(&sentences[sentences.len() / 2]);
    let (bytes, count) = (readme.len(), sentences.len());
    println!("{bytes} bytes; {count} sentences of {median} words in the median, {} at most", words(longest));
    assert!(bytes <= README_BYTES_MAX, "it has {bytes} bytes");
    assert!(median <= SENTENCE_WORDS_MEDIAN_MAX, "the median sentence has {median} words");
    assert!(words(longest) <= SENTENCE_WORDS_MAX, "{} words: {longest}", words(longest));
}

#[test]
fn sentences_are_those_of_the_prose() {
    let text = "# A heading\nOne, and `a code. Of many`\nwords. Two (in brackets).\n\n```sh\nno sentence. None\n```\n\
                | a table. |\n- an item: [a link](to/a.file) e.g. this\n- **Bold.** Three!";
    let found = sentences(text);
    let expected =
        ["One, and CODE words.", "Two (in brackets).", "an item: a link e.g. this", "**Bold.**", "Three!"];
    assert_eq!(found, expected);
    assert_eq!(words(&found[2]), 6);
}

#[test]
fn links_lead_to_files_and_headings() {
    let documents = documents();
    let mut wrong = Vec::new();
    let mut links = 0;
    for (path, text) in &documents {
        let prose = prose(text).join("\n");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("https://")) {
            links += 1;
            let (file, heading) =
                target.split_once('#').map_or((target, None), |(file, name)| (file, Some(name)));
            let led_to = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let is_there = match heading {
                None => led_to.exists(),
                Some(heading) => {
                    fs::read_to_string(&led_to).is_ok_and(|text| anchors(&text).contains(heading))
                }
            };
            if !is_there {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(documents.len() > 15 && links > 50, "{} documents, {links} links", documents.len());
}

#[test]
fn documents_name_options_that_there_are() {
    let mut options =
        options(&["", "new", "build", "inspect", "componentize", "calls", "calls list", "calls retry"]);
    // Other names, in brackets behind what is said of an option.
    options.extend(["--addr", "--request-timeout"].map(str::to_owned));
    let mut named_count = 0;
    for page in ["README.md", "host/SECURITY.md", "host/OPTIONS.md", "host/PRODUCTION.md", "guests/README.md"]
    {
        for option in named(page) {
            named_count += 1;
            assert!(options.contains(&option), "{page}: {option} is no option");
        }
    }
    assert!(named_count > 100, "{named_count}");
}

#[test]
fn the_page_about_options_has_all_of_the_server() {
    let page = named("host/OPTIONS.md");
    let of_every_program = ["--help", "--version"].map(str::to_owned).into();
    let missing = &(&options(&[""]) - &page) - &of_every_program;
    assert!(missing.is_empty(), "host/OPTIONS.md does not have {missing:?}");
}

/// What `--help` of these commands begins a line with; "" is the server itself.
fn options(commands: &[&str]) -> BTreeSet<String> {
    let help = |command: &&str| {
        let words = command.split_whitespace();
        let output = Command::new(env!("CARGO_BIN_EXE_wasm-serve")).args(words).arg("--help").output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let all: String = commands.iter().map(help).collect();
    // What is indented by more is what is said of them.
    let is_of_an_option =
        |line: &&str| line.trim_start().starts_with('-') && !line.starts_with(&" ".repeat(7));
    let name = |line: &str| line.split([' ', ',']).find(|word| word.starts_with("--")).map(str::to_owned);
    all.lines().filter(is_of_an_option).filter_map(name).collect()
}

/// The options that a document names: code that begins with one.
fn named(page: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let prose = prose(&text).join("\n");
    let codes = prose.split('`').skip(1).step_by(2);
    let options = codes.filter_map(|code| code.split([' ', '=']).next());
    options.filter(|option| option.starts_with("--") && !option.ends_with("...")).map(str::to_owned).collect()
}

fn documents() -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for folder in ["", "guests", "host", "tests", "wit"] {
        add_documents(&root().join(folder), !folder.is_empty(), &mut all);
    }
    all
}

fn add_documents(folder: &Path, with_folders_in_it: bool, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_of_others = ["target", "node_modules", "build"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && with_folders_in_it && !is_of_others {
            add_documents(&path, true, all);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            all.insert(path.clone(), fs::read_to_string(&path).unwrap());
        }
    }
}

/// The lines that are not code.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    text.lines().filter(is_prose).collect()
}

/// The names of a document's headings in links, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|line| line.starts_with('#'));
    let names = headings.map(|heading| heading.trim_start_matches('#').trim().to_lowercase());
    names
        .map(|name| {
            let kept =
                name.chars().filter(|character| character.is_alphanumeric() || "-_ ".contains(*character));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// The sentences of paragraphs and of items in lists, not of headings, tables and code. Code
/// within a sentence is one word of it, and of a link its text counts.
fn sentences(text: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in prose(text).into_iter().map(str::trim) {
        let (number, after_number) = line.split_once(". ").unwrap_or_default();
        let is_numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let item = line.strip_prefix("- ").or(is_numbered.then_some(after_number));
        if line.is_empty() || line.starts_with(['#', '|']) || item.is_some() {
            paragraphs.push(String::new());
        }
        if !line.starts_with(['#', '|']) {
            let paragraph = paragraphs.last_mut().expect("there is one from the beginning");
            *paragraph += item.unwrap_or(line);
            paragraph.push(' ');
        }
    }
    paragraphs.iter().flat_map(|paragraph| split(&without_links(&without_code(paragraph)))).collect()
}

fn without_code(text: &str) -> String {
    text.split('`').enumerate().map(|(place, part)| if place % 2 == 0 { part } else { "CODE" }).collect()
}

fn without_links(text: &str) -> String {
    let mut parts = text.split("](");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once(')').map_or(part, |(_, after)| after));
    rest.fold(first, |text, part| text + part).replace('[', "")
}

/// A sentence ends with a word that ends so, if the next one does not begin small.
fn split(paragraph: &str) -> Vec<String> {
    let mut sentences = vec![String::new()];
    let mut words = paragraph.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let sentence = sentences.last_mut().expect("there is one from the beginning");
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        *sentence += word;
        let is_end = word.trim_end_matches([')', '*']).ends_with(['.', '!', '?']);
        if is_end && words.peek().is_some_and(|next| !next.starts_with(char::is_lowercase)) {
            sentences.push(String::new());
        }
    }
    sentences.retain(|sentence| words_of(sentence).next().is_some());
    sentences
}

fn words(sentence: &str) -> usize {
    words_of(sentence).count()
}

fn words_of(sentence: &str) -> impl Iterator<Item = &str> {
    sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric))
}
