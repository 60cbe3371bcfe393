use crate::support::server::{Server, program, setup};
use crate::support::{Folder, client, guest};

const VERSIONS: [&str; 4] = ["rc.1", "draft", "runtime", "2024-09-27"];

fn ask(server: &Server, target: &str) -> String {
    let reply = server.get(target);
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    reply.text().to_owned()
}

#[test]
fn values_are_got_by_name_in_every_version() {
    let folder = Folder::new();
    std::fs::write(folder.join("key"), "hush-hush\n").unwrap();
    let server = setup(guest("keyvalue"))
        .option("--config", "colour=red")
        .option("--config", "equation=a=b")
        .option("--config", "empty=")
        .option("--secret", format!("api-key={}", folder.join("key").display()))
        .start();
    for version in VERSIONS {
        let get = |name: &str| ask(&server, &format!("/config/{version}?name={name}"));
        assert_eq!(get("colour"), "some red", "{version}");
        assert_eq!(get("equation"), "some a=b", "{version}");
        assert_eq!(get("empty"), "some ", "{version}");
        assert_eq!(get("api-key"), "some hush-hush", "{version}");
        for name in ["none", "Colour", "", "PATH", "HOME"] {
            assert_eq!(get(name), "none", "{version} {name}");
        }
        let all = "api-key=hush-hush\ncolour=red\nempty=\nequation=a=b\n";
        assert_eq!(ask(&server, &format!("/config/{version}")), all, "{version}");
    }
    let server = setup(guest("keyvalue")).start();
    for version in VERSIONS {
        assert_eq!(ask(&server, &format!("/config/{version}?name=colour")), "none", "{version}");
        assert_eq!(ask(&server, &format!("/config/{version}")), "", "{version}");
    }
}

#[test]
fn secrets_are_shown_nowhere() {
    let folder = Folder::new();
    std::fs::write(folder.join("key"), "hush-hush").unwrap();
    let server = setup(guest("keyvalue"))
        .option("--secret", format!("api-key={}", folder.join("key").display()))
        .start();
    ask(&server, "/config/rc.1?name=none");
    server.signal("HUP");
    server.wait_for_line("swapped the guest");
    std::fs::write(folder.join("key"), b"hush-hush\xff").unwrap();
    server.signal("HUP");
    server.wait_for_line("did not swap the guest");
    let shown = [
        server.log(),
        server.stats().to_string(),
        client::get(server.stats_address, "/metrics").text().to_owned(),
        std::fs::read_to_string(format!("/proc/{}/cmdline", server.pid())).unwrap(),
        std::fs::read_to_string(format!("/proc/{}/environ", server.pid())).unwrap(),
        format!("{:?} {:?}", server.earlier_lines, server.first_lines),
    ];
    for text in shown {
        assert!(!text.contains("hush"), "{text}");
    }
}

#[test]
fn secrets_are_read_again_when_the_guest_is_swapped() {
    let folder = Folder::new();
    let file = folder.join("key");
    std::fs::write(&file, "first").unwrap();
    let server = setup(guest("keyvalue"))
        .options("--max-requests 0 --threads 2")
        .option("--secret", format!("key={}", file.display()))
        .start();
    let get = || ask(&server, "/config/rc.1?name=key");
    assert_eq!(get(), "some first");
    std::fs::write(&file, "second").unwrap();
    assert_eq!(get(), "some first");
    server.signal("HUP");
    server.wait_for_figure("/swaps/done", 1);
    for _ in 0..8 {
        assert_eq!(get(), "some second");
    }
    // A swap that is refused changes nothing.
    std::fs::remove_file(&file).unwrap();
    server.signal("HUP");
    let line = server.wait_for_line("did not swap the guest");
    assert!(line.contains(&format!("--secret key: {}", file.display())), "{line}");
    assert_eq!(get(), "some second");
}

#[test]
fn what_cannot_be_a_value_is_a_usage_error() {
    let folder = Folder::new();
    std::fs::write(folder.join("binary"), b"hush\xff").unwrap();
    std::fs::write(folder.join("large"), vec![b'x'; (64 << 10) + 1]).unwrap();
    let named = |name: &str| format!("key={}", folder.join(name).display());
    let (missing, binary, large) = (named("missing"), named("binary"), named("large"));
    let here = format!("key={}", folder.0.display());
    let rows: [(&[&str], &str); 9] = [
        (&["--config", "colour"], "expected NAME=VALUE"),
        (&["--config", "gunicorn.conf.py"], "there is no configuration file"),
        (&["--config", "=red"], "expected NAME=VALUE"),
        (&["--config", "key=1", "--config", "key=2"], "key is given twice"),
        (&["--config", "key=1", "--secret", &large], "key is given twice"),
        (&["--secret", &missing], "missing: cannot be read"),
        (&["--secret", &binary], "is not UTF-8"),
        (&["--secret", &large], "has over 65536 bytes"),
        (&["--secret", &here], "a folder, not a file"),
    ];
    for (arguments, says) in rows {
        let output = program().arg("--guest").arg(guest("keyvalue")).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {error}");
        assert!(error.contains(says) && !error.contains("hush"), "{arguments:?}: {error}");
    }
}

#[test]
fn no_guest_may_write_to_the_file_of_a_secret() {
    let folder = Folder::new();
    std::fs::write(folder.join("key"), "hush").unwrap();
    let dir = folder.0.display().to_string();
    let secret = format!("key={dir}/key");
    let arguments = ["--dir", &dir, "--secret", &secret];
    let output = program().arg("--guest").arg(guest("keyvalue")).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("the guest could change --secret"), "{error}");
}
