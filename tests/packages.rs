//! The packages that `.ci/packages` builds: each is installed into an empty folder, and serves
//! from there. They have the program in them that these tests were built with; what users get
//! is the same with the profile `dist`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::support::server::{setup_installed, tools};
use crate::support::{Folder, guest, root, scripts};

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{command:?} says: {}", String::from_utf8_lossy(&said));
    output
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// What was built: the folder with the packages, and Cargo's of the program in them.
fn built() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let _alone = scripts::alone("packages");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        let _ = fs::remove_dir_all(&folder);
        let of_profile = Path::new(env!("CARGO_BIN_EXE_wasm-serve")).parent().unwrap();
        // The one profile whose folder has another name.
        let profile = match of_profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let (target, own) = target_beside(of_profile);
        let mut script = Command::new(root().join(".ci/packages"));
        script.args(["--profile", profile]).arg(&folder);
        script.env("CARGO_TARGET_DIR", target).env("WASM_SERVE_TOOLS", tools());
        // Compressing takes longer than all else, and is not what is tested.
        script.env("DPKG_DEB_COMPRESSOR_LEVEL", "0");
        succeeds(&mut script);
        (folder, own)
    })
}

/// The one whose name ends so.
fn package(ending: &str) -> PathBuf {
    let mut files = fs::read_dir(&built().0).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.to_str().unwrap().ends_with(ending)).expect("it was built")
}

/// A target folder in which Cargo finds all that it has built, and its lock, but not the
/// finished program: maturin moves that away for a moment, while other tests start it. And
/// the folder of the profile in it.
fn target_beside(of_profile: &Path) -> (PathBuf, PathBuf) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages-target");
    let _ = fs::remove_dir_all(&target);
    let own = target.join(of_profile.file_name().unwrap());
    fs::create_dir_all(&own).unwrap();
    for name in [".cargo-lock", ".fingerprint", "build", "deps", "incremental"] {
        symlink(of_profile.join(name), own.join(name)).unwrap();
    }
    (target, own)
}

fn assert_serves(program: &Path, options: &[String]) {
    let server = setup_installed(program, options).start();
    assert_eq!(server.get("/").text(), "Hello World");
    assert_eq!(server.stop().status.code(), Some(0));
}

#[test]
fn a_wheel_is_installed_by_pip_and_its_program_serves() {
    let wheel = package(".whl");
    let name = wheel.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("wasm_serve-") && name.contains("-py3-none-manylinux_"), "{name}");
    let folder = Folder::new();
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--target"]);
    succeeds(pip.arg(folder.join("installed")).arg(&wheel).env("PIP_ROOT_USER_ACTION", "ignore"));
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let options =
        ["--guest".to_owned(), path(guest("hello")), "--cache".to_owned(), path(folder.join("cache"))];
    assert_serves(&folder.join("installed/bin/wasm-serve"), &options);
}

/// A root of a system that has nothing but what dpkg keeps of packages.
struct System(Folder);

impl System {
    fn new() -> System {
        let folder = Folder::new();
        for name in ["info", "updates", "triggers"] {
            fs::create_dir_all(folder.join("var/lib/dpkg").join(name)).unwrap();
        }
        fs::write(folder.join("var/lib/dpkg/status"), "").unwrap();
        System(folder)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The package's scripts run, with `DPKG_ROOT`. What it depends on is this system's.
    fn dpkg(&self, action: &str, what: &Path) {
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut dpkg = match is_root {
            true => Command::new("dpkg"),
            false => {
                let mut command = Command::new("unshare");
                command.args(["--map-root-user", "dpkg"]);
                command
            }
        };
        dpkg.arg("--root").arg(&self.0.0).args(["--log", "/dev/null"]);
        dpkg.args(["--force-script-chrootless", "--force-depends", "--force-confdef", "--force-confold"]);
        dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(std::process::Stdio::null());
        succeeds(dpkg.arg(action).arg(what));
    }

    fn unit(&self) -> String {
        read(self.path("/usr/lib/systemd/system/wasm-serve.service"))
    }

    /// What the unit starts: the program, and its options with those of the file that an
    /// administrator edits.
    fn command(&self) -> Vec<String> {
        let unit = self.unit();
        let start = value(&unit, "ExecStart");
        let defaults = read(self.path(value(&unit, "EnvironmentFile")));
        let options =
            defaults.lines().find_map(|line| line.strip_prefix("WASM_SERVE_OPTIONS=")).expect("options");
        let line = start.replace("$WASM_SERVE_OPTIONS", options.trim_matches('"'));
        assert!(!line.contains(['$', '"', '\\']), "it has to be read as systemd reads it: {line}");
        line.split_whitespace().map(str::to_owned).collect()
    }
}

fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.next().unwrap_or_else(|| panic!("no {key}="))
}

#[test]
fn a_debian_package_is_installed_by_dpkg_and_serves_as_its_unit_says() {
    let system = System::new();
    let (package, defaults) = (package(".deb"), system.path("/etc/default/wasm-serve"));
    system.dpkg("--install", &package);
    assert!(!system.path("/etc/systemd/system").exists(), "it is not enabled before a guest is named");
    // The paths are those of an installed system; the folders are what systemd makes.
    let places = |word: String| match word.starts_with('/') {
        true => system.path(&word).to_str().unwrap().to_owned(),
        false => word,
    };
    let mut command = system.command().into_iter().map(places);
    let program = PathBuf::from(command.next().unwrap());
    assert_serves(&program, &command.collect::<Vec<_>>());
    assert_eq!(fs::read(&program).unwrap(), fs::read(env!("CARGO_BIN_EXE_wasm-serve")).unwrap());

    // What was edited outlasts an upgrade and a removal, and goes when it is to go.
    fs::write(&defaults, "WASM_SERVE_OPTIONS=--guest /srv/app.wasm\n").unwrap();
    system.dpkg("--install", &package);
    assert_eq!(read(&defaults), "WASM_SERVE_OPTIONS=--guest /srv/app.wasm\n");
    let name = Path::new("wasm-serve");
    system.dpkg("--remove", name);
    assert!(defaults.exists() && !program.exists());
    system.dpkg("--purge", name);
    let left = files(&system.0.0);
    let is_ours =
        |path: &&PathBuf| path.to_str().unwrap().contains("wasm-serve.") || path.ends_with("wasm-serve");
    let ours: Vec<_> = left.iter().filter(is_ours).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let system = System::new();
    succeeds(Command::new("dpkg-deb").arg("-x").arg(package(".deb")).arg(&system.0.0));
    let unit = system.unit();
    // The options of the file that an administrator edits are about folders that there are.
    let defaults = read(system.path(value(&unit, "EnvironmentFile")));
    for (key, folder) in [
        ("CacheDirectory", "/var/cache/"),
        ("StateDirectory", "/var/lib/"),
        ("LogsDirectory", "/var/log/"),
        ("RuntimeDirectory", "/run/"),
    ] {
        assert!(defaults.contains(&format!("#   {folder}{} ", value(&unit, key))), "{key}");
    }
    let words = defaults.split_whitespace().map(|word| word.trim_matches(|c: char| "`\"(),:".contains(c)));
    let help = succeeds(Command::new(system.path("/usr/bin/wasm-serve")).arg("--help"));
    let help = String::from_utf8(help.stdout).unwrap();
    let mut named = 0;
    for option in words.filter(|word| word.starts_with("--")) {
        named += 1;
        let is_there = [" ", ",", "\n"].iter().any(|end| help.contains(&format!("{option}{end}")));
        assert!(is_there, "{option}");
    }
    assert!(named > 5, "{named}");
    // A start must not end before compiling does, and a stop not before the work in hand.
    let seconds = |key| value(&unit, key).parse::<u64>().unwrap();
    // In one line, since a default may be cut into two.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let default = |option: &str| {
        let at = help.find(&format!("{option} <")).expect("an option with a value");
        let value = help[at..].split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
        value.unwrap().parse::<u64>().unwrap()
    };
    assert!(seconds("TimeoutStartSec") > default("--compile-timeout"));
    let in_hand = ["--grace", "--queue-timeout", "--harakiri", "--write-timeout"];
    assert!(seconds("TimeoutStopSec") > in_hand.map(default).iter().sum());
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("there is no systemd-analyze");
        return;
    }
    let program = system.path("/usr/bin/wasm-serve");
    let here = system.0.join("wasm-serve.service");
    fs::write(&here, unit.replace("/usr/bin/wasm-serve", program.to_str().unwrap())).unwrap();
    let said = succeeds(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(!said.contains("wasm-serve"), "{said}");
}

/// What is copied into the image is all that the program was built of, and what it starts is a
/// server.
#[test]
fn the_image_has_what_the_program_is_built_of_and_starts_it() {
    let lines = read(root().join("host/packages/Containerfile"));
    let instructions = |name: &'static str| lines.lines().filter_map(move |line| line.strip_prefix(name));
    let copied: Vec<PathBuf> = instructions("COPY ")
        .filter(|line| !line.starts_with("--from"))
        .flat_map(|line| line.split(' ').rev().skip(1).map(|name| root().join(name)).collect::<Vec<_>>())
        .collect();
    // Cargo's list, for `make`.
    let sources = read(built().1.join("wasm-serve.d"));
    let sources: Vec<_> = sources.split_whitespace().skip(1).map(PathBuf::from).collect();
    assert!(sources.len() > 100, "{}", sources.len());
    for source in sources.iter().chain(&[root().join("Cargo.lock"), root().join("Cargo.toml")]) {
        assert!(copied.iter().any(|folder| source.starts_with(folder)), "{} is not copied", source.display());
    }
    let from_build = instructions("COPY --from=build ").map(|line| line.split_once(' ').unwrap());
    let mut placed = std::collections::BTreeMap::new();
    for (from, to) in from_build {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_wasm-serve"));
        let of_checkout = |path: &str| root().join(path.strip_prefix("/build/").unwrap());
        let is_program = from == "/build/target/dist/wasm-serve";
        placed.insert(to.to_owned(), if is_program { program } else { of_checkout(from) });
    }
    assert!(placed.values().all(|path| path.is_file()), "{placed:?}");
    let folder = Folder::new();
    placed.insert("/var/cache/wasm-serve".to_owned(), folder.join("cache"));
    let words = |name| -> Vec<String> { serde_json::from_str(instructions(name).next().unwrap()).unwrap() };
    let words = [words("ENTRYPOINT "), words("CMD ")].concat();
    let place = |word: &String| match word.starts_with('/') {
        true => placed[word].to_str().unwrap().to_owned(),
        false => word.clone(),
    };
    let command: Vec<_> = words.iter().map(place).collect();
    assert_serves(Path::new(&command[0]), &command[1..]);
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
    entries.collect()
}
