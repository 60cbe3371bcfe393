//! What no guest may write to, of all that was named.

use std::fs;
use std::path::Path;

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
