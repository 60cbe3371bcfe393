//! `wasm-serve inspect FILE`: what a file is, what it needs of the server and what it
//! would get, and whether it can be served. What is asked of a guest is in `summary`,
//! `guest` and `missing`, as loading asks it; here it is only told.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::config::Inspect;
use crate::guest::advice;
use crate::guest::file;
use crate::guest::missing::{Missing, is_cut};
use crate::guest::summary::{Kind, Summary};
use crate::program::engine;
use crate::program::stripped::Outline;
use crate::terminal::escape;

/// Tells it on standard output. The exit code says whether the file can be served.
pub(crate) fn run(options: &Inspect) -> ExitCode {
    let mut report = Report::default();
    report.file(&options.file, options.memory_limit.0);
    let is_good = report.problems.is_empty();
    // Who reads no further has seen enough.
    let _ = std::io::stdout().write_all(report.text().as_bytes());
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Longer names do not move what is said of others.
const IMPORT_WIDTH_MAX: usize = 80;

/// What is told of a file with this content.
#[cfg(any(test, fuzzing))]
pub(crate) fn report(content: &[u8], memory_bytes_max: usize) -> String {
    let mut report = Report::default();
    report.content(content, memory_bytes_max);
    report.text()
}

#[derive(Default)]
struct Report {
    lines: Vec<(&'static str, String)>,
    /// Each says what to change.
    problems: Vec<String>,
}

impl Report {
    fn file(&mut self, file: &Path, memory_bytes_max: usize) {
        self.line("file", file.display());
        if let Some(content) = self.good(file::content(file)) {
            self.content(&content, memory_bytes_max);
        }
    }

    fn content(&mut self, content: &[u8], memory_bytes_max: usize) {
        let Some(summary) = self.good(Summary::read(content)) else { return };
        self.summary(&summary, content.len());
        let is_served = self.good(summary.check()).is_some();
        if !matches!(summary.kind, Kind::Component | Kind::Command) {
            self.imports(&summary, None);
            return;
        }
        let outline = self.good(Outline::read(content, &summary));
        let missing = outline.as_ref().and_then(|outline| self.good(outline.missing()));
        self.imports(&summary, missing.as_deref());
        let Some(outline) = outline else { return };
        if let Some(needs) = self.good(outline.needs()) {
            let per_memory = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
            self.line(
                "memory",
                format_args!(
                    "{} of at most {} at the beginning, {} of initial data (--memory-limit: {})",
                    needs.num_memories,
                    bytes(per_memory),
                    bytes(summary.data_bytes),
                    bytes(memory_bytes_max as u64)
                ),
            );
            self.good(engine::check_size(&needs, memory_bytes_max));
        }
        // One that has no handler is linked only as far as its imports go.
        match is_served {
            true => self.good(outline.link()),
            false => self.good(outline.link_imports()),
        };
    }

    fn summary(&mut self, summary: &Summary, size: usize) {
        let kind = match summary.kind {
            Kind::Component if summary.command().is_some() => "component: a program, to be served by CGI",
            Kind::Component => "component",
            Kind::WitPackage => "WIT package: interfaces and worlds, no code",
            Kind::Command => "core module: a program, to be served by CGI",
            Kind::UnfinishedComponent => "core module that is to become a component",
            Kind::ForJavaScript => "core module for JavaScript",
            Kind::Module => "core module",
        };
        self.line("kind", format_args!("{kind}, {}", bytes(size as u64)));
        self.line("WASI", versions(summary));
        if summary.is_program() && summary.runs_deferred_calls() {
            self.line("callback", "the program itself, with the payload on standard input");
        } else if summary.is_program() {
            self.line("callback", "none: it schedules no deferred calls");
        } else if summary.kind == Kind::Component {
            self.line("handler", summary.handler().unwrap_or("none"));
            self.line("callback", summary.callback().unwrap_or("none: it has no deferred calls"));
        }
        for export in &summary.exports {
            self.line("export", export);
        }
    }

    fn imports(&mut self, summary: &Summary, missing: Option<&[Missing]>) {
        let Some(missing) = missing else {
            summary.imports.iter().for_each(|import| self.line("import", import));
            return;
        };
        let width = summary.imports.iter().map(String::len).max().unwrap_or(0).min(IMPORT_WIDTH_MAX);
        let mut left = missing.len();
        for import in &summary.imports {
            match missing.iter().find(|missing| missing.import == *import) {
                Some(missing) => {
                    left = left.saturating_sub(1);
                    self.line("import", format_args!("{import:width$}  not offered: {}", missing.what));
                }
                None if left == 0 && is_cut(missing) => {
                    self.line("import", format_args!("{import:width$}  not looked for: too much is missing"));
                }
                None => {
                    let grant = advice::grant(import, summary.is_program());
                    self.line("import", format_args!("{import:width$}  {grant}"));
                }
            }
        }
    }

    fn line(&mut self, label: &'static str, text: impl Display) {
        self.lines.push((label, text.to_string()));
    }

    /// Notes what is wrong, if something is.
    fn good<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.problems.push(format!("{error:#}"))).ok()
    }

    /// The whole, with the verdict as the last line.
    fn text(&self) -> String {
        let one_line = |text: &str| escape::text(&text.replace(['\n', '\r'], " "));
        let mut text = String::new();
        for (label, line) in &self.lines {
            text.push_str(&format!("{label:<9} {}\n", one_line(line)));
        }
        let Some((first, others)) = self.problems.split_first() else { return text + "can be served\n" };
        for problem in others {
            text.push_str(&format!("{:<9} {}\n", "problem", one_line(problem)));
        }
        text + &format!("cannot be served: {}\n", one_line(first))
    }
}

/// The versions of WASI that the names of imports and exports have.
fn versions(summary: &Summary) -> String {
    let names = || summary.imports.iter().chain(&summary.exports);
    let mut versions: BTreeSet<&str> = names()
        .filter(|name| name.starts_with("wasi:"))
        .filter_map(|name| Some(name.split_once('@')?.1))
        .collect();
    if names().any(|name| name.starts_with("wasi_snapshot_preview1 ")) {
        versions.insert("0.1 (preview 1)");
    }
    match versions.is_empty() {
        true => "none".to_owned(),
        false => versions.into_iter().collect::<Vec<_>>().join(", "),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} bytes"),
        10_240..10_485_760 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}
