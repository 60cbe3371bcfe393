//! What can be checked of the options of serving before anything is made.

use anyhow::{Context, Result, ensure};

use super::grants::guarded_guest;
use super::options::Options;
use super::paths::{check_file, check_folder, check_folder_of};
use super::serve::Settings;
use crate::connection::address::Address;
use crate::system::folders;

/// A line of 64 KiB, escaped, fits into half of it.
const LOG_BURST_MIN: usize = 1 << 20;

impl Options {
    /// What can be checked without opening or binding anything but the folders
    /// named. The message says what to change.
    pub fn check(self) -> Result<Settings> {
        let settings = self.check_values()?;
        let options = settings.options();
        if let Some(file) = &options.guest {
            check_file("--guest ", file)?;
        }
        folders::check(&options.dir, &[guarded_guest(settings.source()), settings.guarded()].concat())?;
        Ok(settings)
    }

    /// The same, but for the guest's file, and for what the guest could write to.
    pub(crate) fn check_values(self) -> Result<Settings> {
        self.check_folders()?;
        match &self.wsgi_file {
            Some(file) => self.python.check(file)?,
            None => self.python.check_unused()?,
        }
        self.check_files_and_sockets()?;
        self.check_limits()?;
        let stores = self.keyvalue.grants()?;
        let has_tls =
            !self.outbound.grants().is_empty() || stores.iter().any(|store| store.place.wants_tls());
        ensure!(
            has_tls || self.outbound.ca_file.is_empty(),
            "--ca-file is for --allow-outbound, and for --keyvalue over TLS"
        );
        let named_values = self.named_values.read()?;
        Ok(Settings::of(self, stores, named_values))
    }

    fn check_folders(&self) -> Result<()> {
        for (index, folder) in self.dir.iter().enumerate() {
            check_folder("--dir ", &folder.host)?;
            let is_folder = std::fs::metadata(&folder.host)
                .with_context(|| format!("--dir {}: cannot be opened", folder.host.display()))?
                .is_dir();
            ensure!(is_folder, "--dir {}: is not a folder", folder.host.display());
            let taken = self.dir[..index].iter().any(|other| other.guest == folder.guest);
            ensure!(
                !taken,
                "--dir {}: another folder is at {} already; give this one a place with {}::PATH",
                folder.host.display(),
                folder.guest,
                folder.host.display()
            );
        }
        Ok(())
    }

    fn check_files_and_sockets(&self) -> Result<()> {
        for (option, file) in [("--logto ", &self.logto), ("--print-address ", &self.print_address)] {
            file.as_deref().map_or(Ok(()), |file| check_folder_of(option, file))?;
        }
        for (name, address) in [("--http-socket", Some(&self.http_socket)), ("--stats", self.stats.as_ref())]
        {
            if let Some(Address::Unix(path)) = address {
                check_folder_of(&format!("{name} unix:"), path)?;
            }
        }
        let sockets = [Some(&self.http_socket), self.stats.as_ref()];
        let is_unix = |address: &&Address| matches!(address, Address::Unix(_));
        ensure!(
            self.chmod_socket.is_none() || sockets.into_iter().flatten().any(|address| is_unix(&address)),
            "--chmod-socket is for --http-socket unix:PATH or --stats unix:PATH"
        );
        Ok(())
    }

    fn check_limits(&self) -> Result<()> {
        ensure!(!self.harakiri.0.is_zero(), "--harakiri must be more than 0 seconds");
        ensure!(!self.deferred.timeout().is_zero(), "--deferred-timeout must be more than 0 seconds");
        ensure!(!self.compile_timeout.0.is_zero(), "--compile-timeout must be more than 0 seconds");
        ensure!(self.compile_memory.0 >= 256 << 20, "--compile-memory must be at least 256M");
        ensure!(self.head_limit.0 >= 8192, "--head-limit must be at least 8K");
        ensure!(self.head_limit.0 <= 1 << 30, "--head-limit must be at most 1G");
        ensure!((1..=10_000).contains(&self.head_fields), "--head-fields must be from 1 to 10000");
        ensure!(
            self.memory_limit.0 as u64 <= 4 << 30,
            "--memory-limit must be at most 4G, which is all that a guest can address"
        );
        ensure!(self.host_memory_limit.0 >= 1 << 20, "--host-memory-limit must be at least 1M");
        ensure!(
            self.memory_total.is_none_or(|total| total.0 >= 1 << 20),
            "--memory-total must be at least 1M"
        );
        ensure!(!self.kept_time.0.is_zero(), "--kept-time must be more than 0 seconds");
        ensure!(self.open_files >= 1, "--open-files must be at least 1");
        ensure!(self.open_files_total >= 1, "--open-files-total must be at least 1");
        ensure!(self.connections >= 1, "--connections must be at least 1");
        ensure!(
            self.connections <= tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize),
            "--connections is too large"
        );
        ensure!(
            self.log_burst.0 >= LOG_BURST_MIN,
            "--log-burst must be at least 1M, so that a long line fits into it"
        );
        ensure!(self.cores.get() <= 100_000, "--cores must be at most 100000");
        ensure!(self.threads().get() <= 1024, "--threads must be at most 1024");
        Ok(())
    }
}
