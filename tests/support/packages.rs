//! Packages of Python that tests need, installed once for each user, beside what
//! else is kept outside of the checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that is no package of Python: what the variable names, or the system has, or a package of the
/// distribution has in it, which the script of this name puts into the folder.
pub fn program(variable: &str, installed: &[&str], script: &str, folder: PathBuf, name: &str) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    if let Some(path) = installed.iter().map(Path::new).find(|path| path.is_file()) {
        return path.to_owned();
    }
    let file = folder.join(name);
    if !file.is_file() {
        let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support").join(script))
            .arg(&folder)
            .output();
        let made = made.expect("the script can be run");
        assert!(made.status.success(), "no {name}: {}", String::from_utf8_lossy(&made.stderr));
    }
    file
}

/// A folder with Flask and what it needs.
pub fn flask() -> PathBuf {
    installed("flask==3.1.2")
}

/// A folder with requests, a client of HTTP, and what it needs.
pub fn requests() -> PathBuf {
    installed("requests==2.32.5")
}

/// A folder with the client of Redis.
pub fn redis() -> PathBuf {
    installed("redis==8.1.0")
}

/// A folder with pg8000, a client of PostgreSQL, and what it needs.
pub fn pg8000() -> PathBuf {
    installed("pg8000==1.31.6")
}

/// A folder with HTTPX, a client of HTTP, and what it needs.
pub fn httpx() -> PathBuf {
    installed("httpx==0.28.1")
}

/// A folder with Hypercorn, a server of ASGI that reads HTTP/1 with h11.
pub fn hypercorn() -> PathBuf {
    installed("hypercorn==0.18.0")
}

/// A folder with Bottle.
pub fn bottle() -> PathBuf {
    installed("bottle==0.13.4")
}

/// A folder with WhiteNoise, which serves files.
pub fn whitenoise() -> PathBuf {
    installed("whitenoise==6.11.0")
}

/// A folder with SQLAlchemy and what it needs.
pub fn sqlalchemy() -> PathBuf {
    installed("SQLAlchemy==2.0.44")
}

/// A folder with a package of PyPI.
fn installed(package: &str) -> PathBuf {
    let folder = cache().join("wasm-serve/tests").join(package.replace("==", "-"));
    if folder.is_dir() {
        return folder;
    }
    let unfinished = folder.with_extension(format!("unfinished-{}", std::process::id()));
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
        .arg(&unfinished)
        .arg(package)
        .output()
        .expect("Python 3 is needed, with pip");
    assert!(pip.status.success(), "pip says: {}", String::from_utf8_lossy(&pip.stderr));
    // Another process may have been faster; then its folder is as good.
    if fs::rename(&unfinished, &folder).is_err() {
        let _ = fs::remove_dir_all(&unfinished);
    }
    assert!(folder.is_dir(), "{} cannot be written", folder.display());
    folder
}

/// Where the user's programs keep what they can make again.
pub fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    cache.expect("HOME or XDG_CACHE_HOME is set")
}
