//! The way to a path, folder by folder and link by link, and who could change what
//! lies at its end.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::{getegid, geteuid};

/// As many as the kernel follows.
const LINKS_MAX: usize = 40;
const STICKY: u32 = 0o1000;

/// A way from the root on.
pub(crate) struct Way {
    /// Each folder, each symbolic link, and what is at the end, if it is there.
    pub places: Vec<Place>,
    /// Where the path really leads: no part of it is a link.
    pub end: PathBuf,
    /// There is something.
    pub is_whole: bool,
}

/// No part of its path is a link, unless it is one itself.
pub(crate) struct Place {
    pub path: PathBuf,
    pub metadata: Metadata,
}

impl Way {
    pub(crate) fn to(path: &Path) -> io::Result<Way> {
        let mut left = names(&std::path::absolute(path)?);
        let mut way = Way { places: Vec::new(), end: PathBuf::from("/"), is_whole: true };
        way.pass(PathBuf::from("/"))?;
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                way.end.pop();
                continue;
            }
            let path = way.end.join(name);
            if way.pass(path.clone())? {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::other(format!("{}: too many links", path.display())));
                }
                let target = fs::read_link(&path)?;
                if target.is_absolute() {
                    way.end = PathBuf::from("/");
                }
                left.extend(names(&target));
            } else {
                way.end = path;
            }
        }
        Ok(way)
    }

    /// Adds a place, if it is there. Says whether it is a link.
    fn pass(&mut self, path: PathBuf) -> io::Result<bool> {
        match fs::symlink_metadata(&path) {
            Ok(metadata) => {
                let is_link = metadata.is_symlink();
                self.places.push(Place { path, metadata });
                Ok(is_link)
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.is_whole = false;
                Ok(false)
            }
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }

    /// Nobody but this user and root can change where the path leads. What is at its end
    /// is a question of its own.
    ///
    /// That is looked at from the root on, so it does not change while it is looked at:
    /// whoever could change a place is found at the folder that it is in.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.places.iter().try_for_each(|place| {
            check(&place.metadata).map_err(|why| io::Error::other(format!("{} {why}", place.path.display())))
        })
    }
}

/// Nobody but this user and root can change what has this metadata, or put something else
/// in the place of what is in it. In a folder such as `/tmp` everybody can only add.
pub(crate) fn check(metadata: &Metadata) -> Result<(), String> {
    let (us, mode) = (geteuid().as_raw(), metadata.mode());
    if ![us, 0].contains(&metadata.uid()) {
        return Err(format!("belongs to another user, {}", metadata.uid()));
    }
    // The mode of a link says nothing.
    if metadata.is_symlink() || metadata.is_dir() && mode & STICKY != 0 {
        return Ok(());
    }
    // Many users have a group of their own.
    let is_open_to_group = mode & 0o020 != 0 && metadata.gid() != getegid().as_raw();
    if is_open_to_group || mode & 0o002 != 0 {
        return Err(format!("can be written by others than this user, mode {:o}", mode & 0o7777));
    }
    Ok(())
}

/// The last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    };
    let mut names: Vec<OsString> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn links_are_places_and_what_they_lead_to_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(base.join("a/b")).unwrap();
        symlink("a/b", base.join("link")).unwrap();
        symlink(base.join("link"), base.join("a/other")).unwrap();
        let way = Way::to(&base.join("a/other/../new/file")).unwrap();
        assert_eq!(way.end, base.join("a/new/file"));
        assert!(!way.is_whole);
        let passed: Vec<_> = way.places.iter().map(|place| place.path.clone()).collect();
        for name in ["a/other", "link", "a/b"] {
            assert!(passed.contains(&base.join(name)), "{name}");
        }
        symlink("loop", base.join("loop")).unwrap();
        assert!(Way::to(&base.join("loop")).is_err());
    }

    #[test]
    fn a_way_that_others_can_change_is_refused_wherever_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open/inner");
        fs::create_dir_all(&path).unwrap();
        symlink(&path, folder.path().join("link")).unwrap();
        for (mode, is_good) in [(0o755, true), (0o777, false), (0o1777, true), (0o702, false)] {
            chmod(&folder.path().join("open"), mode);
            for path in [&path, &folder.path().join("link")] {
                assert_eq!(Way::to(path).unwrap().check().is_ok(), is_good, "{mode:o}");
            }
        }
    }
}
