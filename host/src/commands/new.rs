//! `wasm-serve new`: a folder to begin with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use include_dir::{Dir, DirEntry, include_dir};

use crate::config::{self, Language};
use crate::contract::WIT;

/// What a project of one language begins with.
struct Starter {
    /// Of the folder `guests/LANG`: what every guest in it needs.
    common: &'static [(&'static str, &'static [u8])],
    own: Dir<'static>,
}

/// The files of a folder, by their names in it.
macro_rules! files {
    ($folder:literal: $($file:literal)*) => {
        &[$(($file, include_bytes!(concat!("../../../guests/", $folder, "/", $file)))),*]
    };
}

fn starter(language: Language) -> Starter {
    match language {
        Language::AssemblyScript => Starter {
            common: files!("assemblyscript":
                "build" "asconfig.json" "assembly/wasm-serve/abi.ts" "assembly/wasm-serve/deferred.ts"
                "assembly/wasm-serve/exports.ts" "assembly/wasm-serve/files.ts" "assembly/wasm-serve/http.ts"
                "assembly/wasm-serve/names.mjs" "assembly/wasm-serve/output.ts" "assembly/wasm-serve/streams.ts"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/assemblyscript/starter"),
        },
        Language::C => Starter {
            common: files!("c": "build" "wasm_serve.c" "wasm_serve.h"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/c/starter"),
        },
        Language::Go => Starter {
            common: files!("go": "build" "go.mod" "wasmserve/abi.go" "wasmserve/deferred.go" "wasmserve/fetch.go" "wasmserve/http.go"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/go/starter"),
        },
        Language::JavaScript => Starter {
            common: files!("javascript": "build" "files.js" "http.js" "package.json" "package-lock.json"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/javascript/starter"),
        },
        Language::JavaScriptQuickJs => Starter {
            common: files!("javascript-quickjs": "build" "host.js" "http.js" "package.json" "package-lock.json"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/javascript-quickjs/starter"),
        },
        Language::Python => Starter {
            common: files!("python/example": "build"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/python/starter"),
        },
        Language::Rust => Starter {
            common: files!("rust/example": "build"),
            own: include_dir!("$CARGO_MANIFEST_DIR/../guests/rust/starter"),
        },
    }
}

pub(super) fn run(options: &config::New) -> Result<ExitCode> {
    let dir = &options.dir;
    let named = || dir.display().to_string();
    fs::create_dir_all(dir).with_context(named)?;
    let is_empty = fs::read_dir(dir).with_context(named)?.next().is_none();
    ensure!(is_empty, "{}: is not empty; name another folder", dir.display());
    begin(options.lang, dir).with_context(named)?;
    let dir = dir.display();
    println!("{dir} has a guest that answers and defers; its README.md tells what is what. Next:");
    println!("    wasm-serve dev {dir}");
    println!("    curl http://127.0.0.1:8080/");
    Ok(ExitCode::SUCCESS)
}

/// Writes the files: those of every guest in the language, the starter's own, and WIT.
fn begin(language: Language, dir: &Path) -> Result<()> {
    let starter = starter(language);
    for (name, content) in starter.common {
        write(&dir.join(name), content)?;
    }
    write_all(&starter.own, dir)?;
    write_all(&WIT, &dir.join("wit"))
}

fn write_all(from: &Dir<'_>, to: &Path) -> Result<()> {
    for entry in from.entries() {
        let path = to.join(entry.path().file_name().context("an entry of a folder has a name")?);
        match entry {
            DirEntry::Dir(dir) => write_all(dir, &path)?,
            DirEntry::File(file) => write(&path, file.contents())?,
        }
    }
    Ok(())
}

/// Scripts can be run.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    if content.starts_with(b"#!") {
        let mode = fs::metadata(path)?.permissions().mode();
        // Whoever may read it may run it.
        fs::set_permissions(path, fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
    }
    Ok(())
}
