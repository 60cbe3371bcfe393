//! From what was named on the command line to a program for each worker: at the
//! start, and anew at each swap.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::Program;
use super::engine::Room;
use super::link::Entry;
use super::load::Guest;
use crate::guest::{self, Content};
use crate::memory::account;
use crate::python::{self, Application, Tools, variables};
use crate::sandbox::host::{Grants, Host};
use crate::sandbox::meta_variables;
use crate::system::file;
use crate::telemetry::log::Log;

/// What a guest is made of.
#[derive(Clone, Debug)]
pub enum Source {
    Component(PathBuf),
    Python(Application, Tools),
}

impl Source {
    pub fn file(&self) -> &Path {
        match self {
            Source::Component(file) => file,
            Source::Python(application, _) => &application.file,
        }
    }

    /// The option that named it, for errors.
    pub fn option(&self) -> String {
        match self {
            Source::Component(file) => format!("--guest {}", file.display()),
            Source::Python(application, _) => format!("--wsgi-file {}", application.file.display()),
        }
    }
}

/// What programs are made of.
pub(crate) struct Loader {
    source: Source,
    cache: Option<PathBuf>,
    /// The variables that it sees.
    environment: Vec<(String, String)>,
    room: Room,
    log: Log,
}

impl Loader {
    /// Of guests that are given `grants`. What was made before is kept in the folder `cache`.
    pub(crate) fn new(
        source: Source,
        cache: Option<PathBuf>,
        grants: &Grants,
        room: Room,
        log: Log,
    ) -> Loader {
        let environment = grants.environment.clone();
        Loader { source, cache, environment, room, log }
    }

    /// Reads the guest as it is now, and compiles it. The error says what to change.
    pub(crate) fn compile(&self) -> Result<Guest> {
        let cache = self.cache.as_deref();
        let content = self.content()?;
        variables::check(&content.bytes, &self.environment).with_context(|| self.source.option())?;
        let guest = Guest::load(self.source.option(), content, cache, self.room, &self.log)?;
        // An idle server allocates nothing, by which the allocator would come to do it.
        account::give_back();
        Ok(guest)
    }

    /// Makes a program for each of the hosts, side by side. The error says what to change.
    pub(crate) fn link(&self, guest: &Guest, generation: u64, hosts: Vec<Arc<Host>>) -> Result<Vec<Program>> {
        let program = |host| guest.program(generation, host);
        let mut hosts = hosts.into_iter();
        // What is wrong with the guest shows in the first one.
        let mut programs: Vec<Program> = hosts.next().map(program).transpose()?.into_iter().collect();
        programs.iter().for_each(|first| self.say_what_is_withheld(first));
        std::thread::scope(|scope| {
            let others: Vec<_> = hosts.map(|host| scope.spawn(move || program(host))).collect();
            for other in others {
                programs.push(other.join().expect("making a program does not panic")?);
            }
            Ok(programs)
        })
    }

    /// A variable that was given for the guest, and that it does not get.
    fn say_what_is_withheld(&self, program: &Program) {
        if !matches!(program.entry, Entry::Command(_)) {
            return;
        }
        for (name, _) in &program.host.environment {
            if meta_variables::is_of_requests(name) {
                self.log.server(format_args!(
                    "--env {name}: is not given to this program, which has it from requests alone"
                ));
            }
        }
    }

    /// The file that was named, or a Python application's component.
    fn content(&self) -> Result<Content> {
        match &self.source {
            Source::Component(file) => {
                let file = file.clone();
                let bytes = file::within(file::TIME_MAX, move || guest::file::content(&file));
                let bytes = bytes.with_context(|| self.source.option())?;
                let is_made_here = self.cache.as_deref().is_some_and(|cache| python::is_kept(&bytes, cache));
                Ok(Content { bytes, is_made_here })
            }
            Source::Python(application, tools) => {
                let tell = |message: &str| self.log.server(message);
                python::component(application, tools, self.cache.as_deref(), &tell)
            }
        }
    }
}
