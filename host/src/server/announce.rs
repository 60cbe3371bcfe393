//! What a server says when it serves.

use anyhow::Result;

use crate::config::Settings;
use crate::system::address_file::AddressFile;
use crate::terminal::say;

/// Where it serves, and where its figures are.
pub(super) struct Urls {
    pub(super) http: String,
    pub(super) stats: Option<String>,
}

impl Urls {
    /// Says where it serves, now that it does: to scripts, and in the first lines on standard
    /// error.
    pub(super) fn announce(
        &self,
        settings: &Settings,
        memory_total_bytes: u64,
        address_file: Option<&AddressFile>,
    ) -> Result<()> {
        let mebibytes = |bytes: u64| bytes >> 20;
        say(format_args!("Serving HTTP on {}", self.http));
        say(format_args!(
            "{} cores on {} threads, guests of at most {} MiB each, {} MiB together (--memory-total)",
            settings.cores(),
            settings.threads(),
            mebibytes(settings.host_limits().memory_bytes_max as u64),
            mebibytes(memory_total_bytes),
        ));
        if let Some(url) = &self.stats {
            say(format_args!("Figures on {url}"));
        }
        if settings.is_python() {
            announce_what_python_is_given(settings);
        }
        let Some(address_file) = address_file else { return Ok(()) };
        let urls = std::iter::once(&self.http).chain(&self.stats).map(String::as_str);
        address_file.write(&urls.collect::<Vec<_>>())
    }
}

/// Where a Python application has other defaults than a component.
fn announce_what_python_is_given(settings: &Settings) {
    match settings.calls_per_instance() {
        0 => say("Instances serve one request after the other (--max-requests 1 gives each its own)"),
        1 => {}
        calls => say(format_args!("Instances serve {calls} requests, one after the other")),
    }
    if settings.folders_named() == 0 {
        say("The application sees the current folder as /, read-only (--dir changes that)");
    }
}
