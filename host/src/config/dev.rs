//! The server that `dev` is to start: its options are among those of `dev`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Result, anyhow, ensure};

use super::command_line::CommandLine;
use super::options::Options;
use super::paths::check_folder;
use super::project::Dev;
use crate::system::folders::{self, Guarded};

impl Dev {
    /// The options of the server that is to serve `guest`.
    pub fn serve(&self, guest: &Path) -> Vec<OsString> {
        let guest = ["--guest".into(), guest.as_os_str().to_owned()];
        guest.into_iter().chain(self.options.iter().cloned()).collect()
    }

    /// What a Python application is served with if the options do not say otherwise, as with
    /// --wsgi-file: each with what it means.
    pub fn for_python(&self, server: &Options) -> Vec<([OsString; 2], &'static str)> {
        let mut added = Vec::new();
        if server.max_requests.is_none() {
            let warm = "instances serve one request after the other (--max-requests 1 gives each its own)";
            added.push((["--max-requests".into(), "0".into()], warm));
        }
        if server.dir.is_empty() {
            let mut folder = self.dir.clone().into_os_string();
            folder.push("::ro");
            added
                .push((["--dir".into(), folder], "it sees the project as /, read-only (--dir changes that)"));
        }
        added
    }

    /// The server's options, before anything is built.
    pub fn server(&self) -> Result<Options> {
        let guest = Path::new("app.wasm");
        let arguments = std::iter::once("wasm-serve".into()).chain(self.serve(guest));
        let command_line = CommandLine::read(arguments)
            .map_err(|error| anyhow!(error.to_string().trim_start_matches("error: ").to_owned()))?;
        let serve = command_line.serve;
        ensure!(
            command_line.task.is_none() && serve.guest.as_deref() == Some(guest) && serve.wsgi_file.is_none(),
            "dev serves what it builds; leave out --guest and --wsgi-file"
        );
        Ok(serve)
    }

    pub fn check(&self) -> Result<()> {
        check_folder("", &self.dir)?;
        let settings = self.server()?.check_values()?;
        let options = settings.options();
        folders::check(&options.dir, &[self.guarded(), settings.guarded()].concat())
    }

    /// What is executed to build the project: what its script leaves for later builds may
    /// be in these folders. The guest is built where all programs have temporary folders.
    fn guarded(&self) -> Vec<Guarded> {
        let in_project = |name| Guarded::place("the project", self.dir.join(name));
        let mut guarded: Vec<_> = ["", "build", "target", "node_modules"].map(in_project).into();
        guarded.push(Guarded::place("the folder of the guest that is built,", std::env::temp_dir()));
        guarded
    }
}
