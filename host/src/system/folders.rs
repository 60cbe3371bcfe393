//! Folders of the host that guests see, and what of the server's own must not be in their
//! reach: the server executes it, or reads it as its own. So a folder that is granted with
//! `--dir`, and not read-only, must neither have it inside nor be inside of it, whatever
//! names, links and mounts lead there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use walkdir::WalkDir;

use super::trusted_path::Way;

/// Kinds of filesystems by which the system is steered, beside `proc`.
const DOORS: [&str; 12] = [
    "sysfs",
    "devtmpfs",
    "devpts",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "efivarfs",
    "cgroup",
    "cgroup2",
    "bpf",
    "binfmt_misc",
];

/// Entries of a granted folder among which other names of a file are looked for.
const ENTRIES_MAX: usize = 100_000;

/// A folder of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the guest finds it.
    pub guest: String,
    /// The guest may not change it.
    pub read_only: bool,
}

impl FromStr for Folder {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Folder> {
        let (text, read_only) = match text.strip_suffix("::ro") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (host, guest) = text.split_once("::").unwrap_or((text, "/"));
        ensure!(!host.is_empty(), "the host's folder is missing");
        ensure!(!guest.is_empty(), "the guest's path is missing");
        ensure!(!guest.contains("::"), "expected HOST, HOST::GUEST, HOST::ro or HOST::GUEST::ro");
        Ok(Folder { host: PathBuf::from(host), guest: guest.to_owned(), read_only })
    }
}

/// Something that is the server's own.
#[derive(Clone)]
pub(crate) struct Guarded {
    /// How the user knows it.
    name: String,
    path: PathBuf,
    /// What is inside of it is guarded, too.
    is_tree: bool,
}

impl Guarded {
    pub(crate) fn place(name: &str, path: impl Into<PathBuf>) -> Guarded {
        Guarded { name: name.to_owned(), path: path.into(), is_tree: false }
    }

    pub(crate) fn tree(name: &str, path: impl Into<PathBuf>) -> Guarded {
        Guarded { is_tree: true, ..Guarded::place(name, path) }
    }
}

/// No folder that may be written has anything that is guarded in it, or is in it.
pub(crate) fn check(folders: &[Folder], guarded: &[Guarded]) -> Result<()> {
    if folders.is_empty() {
        return Ok(());
    }
    let mounts = Mounts::read();
    folders.iter().try_for_each(|folder| check_kind(folder, &mounts))?;
    for folder in folders.iter().filter(|folder| !folder.read_only) {
        let host = folder.host.display();
        let way = Way::to(&folder.host).with_context(|| format!("--dir {host}: cannot be opened"))?;
        let granted = mounts.all(&way.end);
        for Guarded { name, path, is_tree } in guarded {
            let path = std::path::absolute(path)?;
            let own = Way::to(&path).with_context(|| format!("{name}: cannot be looked for"))?;
            let links = own.places.iter().filter(|place| place.metadata.is_symlink());
            let places = links.map(|link| link.path.as_path()).chain([own.end.as_path()]);
            for place in places.map(|place| mounts.spot(place)) {
                let is_within = granted.iter().any(|spot| place.is_within(spot));
                ensure!(
                    !(is_within || *is_tree && granted.iter().any(|spot| spot.is_within(&place))),
                    "--dir {host}: the guest could change {name} {}, which is the server's own; make the folder read-only ({host}::ro), or grant another one",
                    path.display()
                );
            }
            check_names(&folder.host, &way.end, name, &own)?;
        }
    }
    Ok(())
}

/// Filesystems in which files are doors to the system, and to the memory of processes.
fn check_kind(folder: &Folder, mounts: &Mounts) -> Result<()> {
    let host = folder.host.display();
    let end = folder.host.canonicalize().with_context(|| format!("--dir {host}: cannot be opened"))?;
    for mount in mounts.around(&end) {
        let is_refused = mount.kind == "proc" || !folder.read_only && DOORS.contains(&mount.kind.as_str());
        ensure!(
            !is_refused,
            "--dir {host}: {} is the system's own ({}), by which a guest would reach memory of the server, or the machine; grant another folder",
            mount.point.display(),
            mount.kind
        );
    }
    Ok(())
}

/// A file that has several names has none of them in the folder.
fn check_names(host: &Path, folder: &Path, name: &str, file: &Way) -> Result<()> {
    let Some(metadata) = file.places.last().map(|place| &place.metadata) else { return Ok(()) };
    if !file.is_whole || !metadata.is_file() || metadata.nlink() == 1 {
        return Ok(());
    }
    let (host, path) = (host.display(), file.end.display());
    for (count, entry) in WalkDir::new(folder).into_iter().flatten().enumerate() {
        ensure!(
            count < ENTRIES_MAX,
            "--dir {host}: {name} {path} has {} names (hard links), and the folder is too large to see whether one of them is in it; use a copy of the file",
            metadata.nlink()
        );
        let is_same = |other: fs::Metadata| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino());
        if entry.file_type().is_file() && entry.metadata().is_ok_and(is_same) {
            bail!(
                "--dir {host}: the guest could change {name} {path}, which has another name there, {}; make the folder read-only ({host}::ro), or use a copy of the file",
                entry.path().display()
            );
        }
    }
    Ok(())
}

/// Where something is, however often that is mounted: a filesystem, and a path in it.
#[derive(Debug, PartialEq)]
struct Spot {
    device: String,
    path: PathBuf,
}

impl Spot {
    fn is_within(&self, folder: &Spot) -> bool {
        self.device == folder.device && self.path.starts_with(&folder.path)
    }
}

/// What is mounted where, in the order of mounting.
struct Mounts(Vec<Mount>);

struct Mount {
    device: String,
    /// The filesystem, such as `ext4`.
    kind: String,
    /// What of the filesystem is mounted.
    root: PathBuf,
    point: PathBuf,
}

impl Mounts {
    /// Where the system does not tell, all is taken for one filesystem.
    fn read() -> Mounts {
        Mounts::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// The form is that of proc_pid_mountinfo(5).
    fn parse(text: &str) -> Mounts {
        let mount = |line: &str| {
            let (fields, rest) = line.split_once(" - ")?;
            let kind = rest.split(' ').next()?.to_owned();
            let mut fields = fields.split(' ').skip(2);
            let device = fields.next()?.to_owned();
            Some(Mount { device, kind, root: unescape(fields.next()?), point: unescape(fields.next()?) })
        };
        Mounts(text.lines().filter_map(mount).collect())
    }

    fn spot(&self, path: &Path) -> Spot {
        let mounts = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        let Some(mount) = mounts.max_by_key(|mount| mount.point.as_os_str().len()) else {
            return Spot { device: String::new(), path: path.to_owned() };
        };
        let rest = path.strip_prefix(&mount.point).unwrap_or(path);
        Spot { device: mount.device.clone(), path: mount.root.join(rest) }
    }

    /// What the folder lies in, and what is mounted in it.
    fn around(&self, folder: &Path) -> Vec<&Mount> {
        let of = self.0.iter().filter(|mount| folder.starts_with(&mount.point));
        let of = of.max_by_key(|mount| mount.point.as_os_str().len());
        self.0.iter().filter(|mount| mount.point.starts_with(folder)).chain(of).collect()
    }

    /// The folder, and what is mounted in it.
    fn all(&self, folder: &Path) -> Vec<Spot> {
        let inside = self.0.iter().filter(|mount| mount.point.starts_with(folder));
        let inside = inside.map(|mount| Spot { device: mount.device.clone(), path: mount.root.clone() });
        inside.chain([self.spot(folder)]).collect()
    }
}

/// Spaces and the like are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut pieces = text.split('\\');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[3..]);
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn is_refused(folder: &Path, guarded: Guarded) -> bool {
        let folder = Folder { host: folder.to_owned(), guest: "/".into(), read_only: false };
        let read_only = Folder { read_only: true, ..folder.clone() };
        check(&[read_only], &[Guarded { name: String::new(), path: guarded.path.clone(), is_tree: true }])
            .unwrap();
        check(&[folder], &[guarded]).is_err()
    }

    #[test]
    fn folders_have_a_place_and_may_be_read_only() {
        let folder =
            |host: &str, guest: &str, read_only| Folder { host: host.into(), guest: guest.into(), read_only };
        let rows = [
            ("data", folder("data", "/", false)),
            ("data::ro", folder("data", "/", true)),
            ("data::/srv", folder("data", "/srv", false)),
            ("data::/srv::ro", folder("data", "/srv", true)),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Folder>().unwrap(), expected, "{text}");
        }
        for text in ["", "::/srv", "data::", "data::/srv::rw"] {
            assert!(text.parse::<Folder>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_with_something_of_the_servers_in_it_is_refused_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["data/inner", "own/inner", "links"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("own/file"), "").unwrap();
        symlink(at("own"), at("links/own")).unwrap();
        symlink("../own/file", at("data/file")).unwrap();
        fs::hard_link(at("own/file"), at("data/inner/name")).unwrap();
        fs::write(at("own/other"), "").unwrap();
        let place = |name: &str| Guarded::place("it", at(name));
        let tree = |name: &str| Guarded::tree("it", at(name));
        let rows = [
            ("data", place("own/other"), false),
            ("own", place("own/other"), true),
            ("links/own", place("own/other"), true),
            ("own", place("links/own/other"), true),
            ("links", place("links/own/other"), true),
            ("data", place("data/file"), true),
            ("own", place("data/file"), true),
            ("data/inner", place("own/file"), true),
            ("", place("own/other"), true),
            ("own", place("own/missing"), true),
            ("own/inner", place("own/other"), false),
            ("own/inner", place("own"), false),
            ("own", place("own"), true),
            ("own/inner", tree("own"), true),
            ("own/inner", tree("links/own"), true),
            ("links/own/inner", tree("own"), true),
            ("data", tree("own"), false),
        ];
        for (granted, guarded, expected) in rows {
            let path = guarded.path.clone();
            assert_eq!(is_refused(&at(granted), guarded), expected, "{granted}, {}", path.display());
        }
    }

    #[test]
    fn a_mount_is_the_same_place_as_what_is_mounted() {
        let mounts = Mounts::parse(
            "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             22 21 8:2 / /home rw - ext4 /dev/sda2 rw\n\
             23 21 8:2 /user/a\\040b /mnt/all/one rw - ext4 /dev/sda2 rw\n",
        );
        let spot = |device: &str, path: &str| Spot { device: device.into(), path: path.into() };
        assert_eq!(mounts.spot(Path::new("/mnt/all")), spot("8:1", "/mnt/all"));
        assert_eq!(mounts.spot(Path::new("/home/user/x")), spot("8:2", "/user/x"));
        assert_eq!(mounts.spot(Path::new("/mnt/all/one/x")), spot("8:2", "/user/a b/x"));
        let cache = mounts.spot(Path::new("/home/user/a b/cache"));
        assert!(mounts.all(Path::new("/mnt/all")).iter().any(|granted| cache.is_within(granted)));
        assert!(!mounts.all(Path::new("/mnt/other")).iter().any(|granted| cache.is_within(granted)));
    }

    #[test]
    fn doors_to_the_system_are_no_folders_for_guests() {
        let mounts = Mounts::parse(
            "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             22 21 0:5 / /proc rw - proc proc rw\n\
             23 21 0:6 / /dev rw shared:1 - devtmpfs udev rw\n",
        );
        for (host, read_only, is_refused) in [
            ("/proc", true, true),
            ("/proc/self", true, true),
            ("/", true, true),
            ("/dev", false, true),
            ("/dev", true, false),
            ("/usr", false, false),
        ] {
            let folder = Folder { host: host.into(), guest: "/".into(), read_only };
            assert_eq!(check_kind(&folder, &mounts).is_err(), is_refused, "{host}, {read_only}");
        }
    }
}
