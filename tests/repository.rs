use std::process::Command;

use crate::support::root;

/// `guests/rust/build` wrote the sums of the sources together with those of what
/// it made of them.
#[test]
fn ready_built_guests_match_their_source() {
    let folder = root().join("guests/rust");
    let check =
        Command::new("sha256sum").args(["--check", "--quiet", "built.sha256"]).current_dir(&folder).output();
    let output = check.expect("sha256sum of coreutils");
    assert!(output.status.success(), "run guests/rust/build: {}", String::from_utf8_lossy(&output.stdout));
    let sums = std::fs::read_to_string(folder.join("built.sha256")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".wasm") {
            assert!(sums.contains(&format!("  {name}\n")), "{name} is not in built.sha256");
            let source = format!("  {}/src/lib.rs\n", name.trim_end_matches(".wasm"));
            assert!(sums.contains(&source), "the source of {name} is not in built.sha256");
        }
    }
}

/// What a script of ours gets from elsewhere it says before, with how much it is.
#[test]
fn downloads_are_announced_with_their_size() {
    let mut downloads = 0;
    let languages = ["assemblyscript", "c", "go", "javascript", "javascript-quickjs", "rust/example"];
    let scripts = languages.map(|language| format!("guests/{language}/build"));
    for name in scripts.iter().map(String::as_str).chain([".ci/packages"]) {
        let script = std::fs::read_to_string(root().join(name)).unwrap();
        let mut is_announced = false;
        for line in script.lines() {
            is_announced |= line.trim_start().starts_with("echo ") && line.contains(" MB");
            let begins = [" -m pip install ", "\"${npm[@]}\" ", "rustup target add \""];
            if begins.iter().any(|begin| line.contains(begin)) {
                assert!(is_announced, "{name}: {line}");
                is_announced = false;
                downloads += 1;
            }
        }
    }
    assert_eq!(downloads, 10);
}
