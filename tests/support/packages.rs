//! Packages of Python that tests need, installed once for each user, beside what
//! else is kept outside of the checkout.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

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
