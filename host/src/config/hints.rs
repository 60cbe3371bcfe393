//! What somebody may have meant who writes what other servers understand: uWSGI, gunicorn,
//! uvicorn and their kin.

use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};

/// What serves the Python application that other servers know as `MODULE:NAME`.
pub(super) struct Meant {
    file: String,
    callable: String,
}

impl Meant {
    /// `package.module:name`, or `path/file.py:name`.
    pub(super) fn by(text: &str) -> Option<Meant> {
        let (module, callable) = text.rsplit_once(':')?;
        // Some name a function that makes the application.
        let callable = callable.trim_end_matches("()");
        let is_word = |text: &str| {
            text.starts_with(|c: char| c == '_' || c.is_alphabetic())
                && text.chars().all(|c| c == '_' || c.is_alphanumeric())
        };
        if module.ends_with(".py") && is_word(callable) {
            return Some(Meant { file: module.to_owned(), callable: callable.to_owned() });
        }
        if !is_word(callable) || !module.split('.').all(is_word) {
            return None;
        }
        let path = module.replace('.', "/");
        let package = format!("{path}/__init__.py");
        let file = if Path::new(&package).is_file() { package } else { format!("{path}.py") };
        Some(Meant { file, callable: callable.to_owned() })
    }
}

impl std::fmt::Display for Meant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--wsgi-file {} --callable {}", self.file, self.callable)
    }
}

const PROCESSES: &str = "one process serves, with --threads N for as many CPUs (all of them, unless it is given); --cores N is how many calls it runs at once";
const RELOAD: &str = "`wasm-serve dev DIR` serves a project and swaps it whenever a file in it changes; a server that runs loads its guest anew at SIGHUP";
const ADDRESS: &str = "the address goes after --http-socket, such as --http-socket 127.0.0.1:9090";
const MODULE: &str = "a Python application is named by its file: --wsgi-file app.py --callable app";
const PATH: &str =
    "folders with modules or packages go after --pythonpath DIR, such as the site-packages of an environment";
const TIME: &str =
    "--harakiri SECONDS is the time for a request, --grace SECONDS what a stop waits for deferred calls";
const NEEDLESS: &str = "it is not needed here: leave it out";
const CALLS: &str = "it is not needed here: `call_later` works as it is, and --cores N is how many calls are under way at once";
const MANAGER: &str =
    "a service manager, such as systemd, does that; --print-address FILE tells when requests are served";
const NO_FILE: &str =
    "there is no configuration file: all is said by options, of which --help has the whole list";
const LOG: &str =
    "--logto FILE is where the log goes, and --disable-logging leaves out the lines of requests";
const TLS: &str =
    "there is no TLS: put nginx or another proxy in front, and name it with --trusted-proxy ADDR";
const STATIC: &str = "there are no static files: put nginx or another proxy in front";
const STORES: &str = "key-value stores are granted by --keyvalue NAME=PLACE, values by --config NAME=VALUE, and secrets by --secret NAME=FILE";
const ASGI: &str = "Python applications are served by WSGI; ASGI is not there";

/// What others call it, and what is said of it.
const OPTIONS: [(&[&str], &str); 15] = [
    (&["--processes", "--process", "--workers", "--worker", "--num-workers", "-p", "--cheaper"], PROCESSES),
    (&["--reload", "--py-autoreload", "--python-autoreload", "--touch-reload", "--watch"], RELOAD),
    (&["--bind", "-b", "--host", "--port", "--http", "--socket", "-s", "--uds", "--listen-address"], ADDRESS),
    (&["--module", "-m", "--wsgi", "-w", "--wsgi-app", "--app", "--mount", "--factory", "--file"], MODULE),
    (&["--chdir", "--app-dir", "--python-path", "--pp", "--venv", "--virtualenv", "--home", "-H"], PATH),
    (&["--timeout", "-t", "--graceful-timeout", "--timeout-keep-alive", "--keep-alive"], TIME),
    (
        &[
            "--master",
            "-M",
            "--enable-threads",
            "--lazy-apps",
            "--lazy",
            "--vacuum",
            "--need-app",
            "--single-interpreter",
            "--die-on-term",
            "--preload",
            "--plugin",
            "--plugins",
            "--http-keepalive",
        ],
        NEEDLESS,
    ),
    (&["--asyncio", "--greenlet", "--gevent", "--async", "--loop", "--worker-class", "-k"], CALLS),
    (&["--daemonize", "--daemonize2", "--daemon", "-d", "-D", "--pidfile", "--pid"], MANAGER),
    (&["--ini", "--yaml", "--json", "--xml", "-c", "--env-file"], NO_FILE),
    (&["--access-logfile", "--error-logfile", "--access-log", "--log-level", "--log-file", "--logger"], LOG),
    (&["--https", "--certfile", "--keyfile", "--ssl-certfile", "--ssl-keyfile", "--tls"], TLS),
    (&["--static-map", "--check-static", "--static-index", "--document-root"], STATIC),
    (&["--key-value", "--keyvalue-store", "--runtime-config-file", "--variable", "-S", "--wasi"], STORES),
    (&["--interface", "--asgi", "--lifespan"], ASGI),
];

/// Languages by other names, and those for which there is no project to begin with.
const LANGUAGES: [(&[&str], &str); 7] = [
    (
        &["typescript", "ts"],
        "TypeScript itself is not there. `assemblyscript` has its syntax, and WebAssembly's types in place of TypeScript's; or begin with `javascript` and let your compiler write its app.js",
    ),
    (&["js", "node", "nodejs", "starlingmonkey"], "its name here is `javascript`"),
    (&["quickjs", "qjs"], "its name here is `javascript-quickjs`"),
    (&["py", "python3", "wsgi", "flask"], "its name here is `python`"),
    (&["rs"], "its name here is `rust`"),
    (&["golang", "tinygo"], "its name here is `go`"),
    (
        &["c++", "cpp", "cxx", "zig", "java", "kotlin", "csharp", "c#", "swift", "ruby", "php", "haskell"],
        "there is no project for it to begin with. A folder with a script `build OUT.wasm` of your own serves as well, in whatever language has a compiler to components or WASI programs; in the project of `c`, the script can be made to compile others",
    ),
];

/// Adds to an error what may have been meant, in the place of options that only look alike.
pub(super) fn add(error: &mut clap::Error) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let of = |table: &[(&[&str], &str)], word: &str| {
        let found = table.iter().find(|(names, _)| names.contains(&word));
        found.map(|(_, hint)| (*hint).to_owned())
    };
    let hint = match (text(ContextKind::InvalidSubcommand), text(ContextKind::InvalidArg)) {
        (Some(word), _) => command(&word),
        (None, Some(option)) => match text(ContextKind::InvalidValue) {
            Some(value) if option.starts_with("--lang") => of(&LANGUAGES, &value.to_lowercase()),
            _ => of(&OPTIONS, &option),
        },
        (None, None) => None,
    };
    let Some(hint) = hint else { return };
    for kind in [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
        ContextKind::Usage,
    ] {
        error.remove(kind);
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(hint)]));
}

/// What is meant by a word that is no command of ours.
fn command(word: &str) -> Option<String> {
    let meant = match word {
        _ if word.ends_with(".py") => format!("--wsgi-file {word}"),
        _ if word.ends_with(".wasm") => format!("--guest {word}"),
        "serve" | "run" | "start" => {
            return Some(
                "serving needs no command: wasm-serve --guest FILE, or wasm-serve --wsgi-file FILE".into(),
            );
        }
        _ => Meant::by(word)?.to_string(),
    };
    Some(format!("to serve it: wasm-serve {meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_call_an_application_becomes_our_options() {
        let rows = [
            ("app:app", Some("--wsgi-file app.py --callable app")),
            ("package.module:wsgi", Some("--wsgi-file package/module.py --callable wsgi")),
            ("dir/app.py:app", Some("--wsgi-file dir/app.py --callable app")),
            ("app:create()", Some("--wsgi-file app.py --callable create")),
            ("app", None),
            ("app:", None),
            ("127.0.0.1:80", None),
            ("a b:c", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Meant::by(text).map(|meant| meant.to_string()).as_deref(), expected, "{text}");
        }
    }

    /// Else it would be taken, and its hint never be seen.
    #[test]
    fn no_option_of_ours_has_a_hint() {
        use clap::CommandFactory;
        let command = super::super::CommandLine::command();
        let mut seen = std::collections::HashSet::new();
        for name in OPTIONS.iter().flat_map(|(names, _)| *names) {
            assert!(seen.insert(name), "{name}");
            let is_ours = |arg: &clap::Arg| {
                let long = arg.get_long_and_visible_aliases().unwrap_or_default();
                let short = arg.get_short().map(|short| format!("-{short}"));
                long.iter().any(|long| format!("--{long}") == *name) || short.as_deref() == Some(name)
            };
            assert!(!command.get_arguments().any(is_ours), "{name}");
        }
    }
}
