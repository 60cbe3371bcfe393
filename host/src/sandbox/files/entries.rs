//! What is in a folder, piece by piece, as the system gives it: with the kind of each
//! entry and where the next one is found, so that a listing costs as much as it is long
//! and holds little, however many names there are.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem::MaybeUninit;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, fstat, openat, openat2, seek, statat,
};

/// Bytes of entries, as the system packs them, that are asked for at once.
const PIECE_BYTES: usize = 32 << 10;

/// Something in a folder.
pub(crate) struct Entry {
    /// None if it is not UTF-8, which WASI cannot tell.
    pub name: Option<String>,
    pub kind: FileType,
    pub inode: u64,
    /// Where the entry behind it is found.
    pub next: u64,
}

/// Opens a folder to read what is in it. It has a position of its own.
pub(crate) fn open(folder: &File) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat2(folder, ".", how, Mode::empty(), ResolveFlags::BENEATH);
    Ok(File::from(opened.or_else(|_| openat(folder, ".", how, Mode::empty()))?))
}

/// The next entries of an opened folder, with `.` and `..`. None are left if there are none.
pub(crate) fn read(folder: &File) -> io::Result<Vec<Entry>> {
    let mut buffer = [MaybeUninit::uninit(); PIECE_BYTES];
    let mut piece = RawDir::new(folder, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = piece.next() {
        let entry = entry?;
        let kind = match entry.file_type() {
            // Some filesystems do not keep it with the name.
            FileType::Unknown => statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        let name = entry.file_name().to_str().ok().map(str::to_owned);
        entries.push(Entry { name, kind, inode: entry.ino(), next: entry.next_entry_cookie() });
        if piece.is_buffer_empty() {
            break;
        }
    }
    Ok(entries)
}

/// The entries from one on, of which one before it told where it is found; 0 is the first.
pub(crate) fn read_from(folder: &File, position: u64) -> io::Result<(Vec<Entry>, Numbers)> {
    let opened = open(folder)?;
    seek(&opened, SeekFrom::Start(position))?;
    let stat = fstat(&opened)?;
    Ok((read(&opened)?, Numbers { device: stat.st_dev, folder: stat.st_ino }))
}

/// Makes of inodes the numbers by which wasmtime tells files apart.
pub(crate) struct Numbers {
    device: u64,
    folder: u64,
}

impl Numbers {
    /// What is above the folder is none of the guest's business.
    pub(crate) fn of(&self, entry: &Entry) -> u64 {
        let mut hasher = DefaultHasher::new();
        let inode = if entry.name.as_deref() == Some("..") { self.folder } else { entry.inode };
        (self.device, inode).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use wasmtime::component::{Resource, ResourceTable};
    use wasmtime_wasi::WasiCtx;
    use wasmtime_wasi::filesystem::{FsPerms, WasiFilesystemCtxView};
    use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
    use wasmtime_wasi::p2::bindings::filesystem::types::{HostDescriptor, PathFlags};

    use super::*;

    #[tokio::test]
    async fn every_name_comes_once_from_wherever_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut names: BTreeSet<String> = (0..3000).map(|number| format!("name-{number:050}")).collect();
        names.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        names.extend([".".to_owned(), "..".to_owned()]);
        let opened = File::open(folder.path()).unwrap();
        let (mut at, mut seen, mut pieces) = (0, BTreeSet::new(), 0);
        loop {
            let (entries, _) = read_from(&opened, at).unwrap();
            let Some(last) = entries.iter().take(100).next_back() else { break };
            at = last.next;
            pieces += 1;
            for entry in entries.into_iter().take(100) {
                assert!(seen.insert(entry.name.unwrap()));
            }
        }
        assert!(seen == names && pieces > 30);
    }

    #[tokio::test]
    async fn entries_have_the_numbers_that_wasmtime_gives_to_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let mut builder = WasiCtx::builder();
        builder.preopened_dir(folder.path(), "/", FsPerms::ReadOnly).unwrap();
        let (mut wasi, mut table) = (builder.build(), ResourceTable::new());
        let mut files = WasiFilesystemCtxView { ctx: wasi.filesystem(), table: &mut table };
        let (opened, _) = files.get_directories().unwrap().remove(0);
        let (entries, numbers) = read_from(&File::open(folder.path()).unwrap(), 0).unwrap();
        assert_eq!(entries.len(), 4);
        for entry in entries {
            let name = entry.name.clone().unwrap().replace("..", ".");
            let opened = Resource::new_borrow(opened.rep());
            let hash = files.metadata_hash_at(opened, PathFlags::empty(), name).await.unwrap();
            assert_eq!(numbers.of(&entry), hash.lower);
        }
    }
}
