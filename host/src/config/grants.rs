//! What no guest may write to, of all that was named.

use std::fs;
use std::path::{Path, PathBuf};

use super::cache::user_cache;
use super::options::Options;
use super::project::own_program;
use super::serve::Settings;
use crate::connection::address::Address;
use crate::program::loader::Source;
use crate::system::folders::Guarded;

impl Settings {
    /// What is guarded whatever the guest is.
    pub(super) fn guarded(&self) -> Vec<Guarded> {
        let options = self.options();
        let mut guarded = options.guarded();
        let secrets = options.named_values.secret.iter();
        guarded.extend(secrets.map(|(_, file)| Guarded::place("--secret", file)));
        guarded.extend(options.keyvalue.files().map(|file| Guarded::place("--keyvalue", file)));
        for file in self.stores().iter().filter_map(|store| store.place.file()) {
            // SQLite has two more beside it.
            for ending in ["", "-wal", "-shm"] {
                let mut path = file.as_os_str().to_owned();
                path.push(ending);
                guarded.push(Guarded::place("--keyvalue", path));
            }
        }
        guarded
    }
}

impl Settings {
    /// What the guest can read of what is for the server alone, though it may not write it: a line for each.
    pub(crate) fn readable_by_the_guest(&self) -> Vec<String> {
        let options = self.options();
        let mut files: Vec<(&str, PathBuf)> = Vec::new();
        files.extend(options.named_values.secret.iter().map(|(_, file)| ("--secret", file.into())));
        files.extend(options.keyvalue.files().map(|file| ("--keyvalue", file)));
        let stores = self.stores().iter().filter_map(|store| store.place.file());
        files.extend(stores.map(|file| ("--keyvalue", file.into())));
        let keys = options.outbound.client_certificate.iter().map(|named| &named.key);
        files.extend(keys.map(|file| ("--client-certificate", file.into())));
        files.extend(options.deferred.file().map(|file| ("--deferred-store", file.into())));
        let folders: Vec<_> =
            self.grants().folders.iter().filter_map(|folder| folder.host.canonicalize().ok()).collect();
        // A store may not be there yet: its folder is.
        let is_readable = |file: &Path| {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).canonicalize();
            let place = file.canonicalize().or(folder);
            place.is_ok_and(|place| folders.iter().any(|folder| place.starts_with(folder)))
        };
        let readable = files.iter().filter(|(_, file)| is_readable(file));
        readable
            .map(|(name, file)| {
                let file = file.display();
                format!(
                    "the guest can read {name} {file}, since it sees that folder; put it into another one"
                )
            })
            .collect()
    }
}

impl Options {
    fn guarded(&self) -> Vec<Guarded> {
        let mut guarded = Vec::new();
        guarded.extend(self.cache.folder().map(|folder| Guarded::tree("--cache", folder)));
        let tools = user_cache().into_iter().chain(self.cache.tools());
        guarded.extend(tools.map(|folder| Guarded::tree("the folder of tools", folder)));
        guarded.extend(own_program().ok().map(|program| Guarded::place("the server's program", program)));
        for (name, file) in [("--logto", &self.logto), ("--print-address", &self.print_address)] {
            guarded.extend(file.as_ref().map(|file| Guarded::place(name, file)));
        }
        guarded.extend(self.deferred.file().map(|file| Guarded::place("--deferred-store", file)));
        guarded.extend(self.outbound.ca_file.iter().map(|file| Guarded::place("--ca-file", file)));
        for named in &self.outbound.client_certificate {
            let files = [&named.certificates, &named.key];
            guarded.extend(files.map(|file| Guarded::place("--client-certificate", file)));
        }
        for (name, number) in [("standard output", 1), ("standard error", 2)] {
            let file = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
            if file.is_file() {
                guarded.push(Guarded::place(name, file));
            }
        }
        for (name, address) in [("--http-socket", Some(&self.http_socket)), ("--stats", self.stats.as_ref())]
        {
            if let Some(Address::Unix(path)) = address {
                guarded.push(Guarded::place(name, path));
            }
        }
        guarded
    }
}

/// What the guest is made of, and by what.
pub(super) fn guarded_guest(source: &Source) -> Vec<Guarded> {
    match source {
        Source::Component(file) => vec![Guarded::place("--guest", file)],
        Source::Python(application, _) => {
            let mut guarded = vec![Guarded::place("--wsgi-file", &application.file)];
            let folders = application.folders.iter();
            guarded.extend(folders.map(|folder| Guarded::place("the Python modules in", folder)));
            guarded.extend(program("python3"));
            guarded
        }
    }
}

/// What is run by this name, what would be run if it were there, and the modules that an
/// interpreter brings with it: beside its folder, or in all of a virtual environment.
fn program(name: &str) -> Vec<Guarded> {
    let mut guarded = Vec::new();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        let path = folder.join(name);
        guarded.push(Guarded::place("the program", &path));
        if path.is_file() {
            for path in [Some(path.clone()), path.canonicalize().ok()].into_iter().flatten() {
                let Some(installed) = path.parent().and_then(Path::parent) else { continue };
                let is_environment = installed.join("pyvenv.cfg").is_file();
                let modules = if is_environment { installed.to_owned() } else { installed.join("lib") };
                guarded.push(Guarded::tree("the modules of the program", modules));
            }
            break;
        }
    }
    guarded
}
