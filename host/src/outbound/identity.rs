//! Certificates that the server shows for its guests to who asks for one, and their keys. Guests
//! see neither, and no message has anything of a key in it.

use std::fmt::{self, Display};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, Error};

use super::destination::Destination;
use super::grant::Grant;
use crate::system::file;
use crate::telemetry::log::Log;

/// Everybody on the machine.
const OTHERS: u32 = 0o007;

/// What the command line says of one.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    to: Grant,
    /// The certificate, and those between it and an authority's (PEM).
    pub certificates: PathBuf,
    pub key: PathBuf,
}

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Named> {
        const FORM: &str = "expected DESTINATION=CERTIFICATE_FILE,KEY_FILE, such as https://api.example.com=cert.pem,key.pem";
        let (to, files) = text.split_once('=').context(FORM)?;
        let (certificates, key) = files.split_once(',').context(FORM)?;
        ensure!(!certificates.is_empty() && !key.is_empty() && !key.contains(','), FORM);
        let to: Grant = to.parse()?;
        ensure!(to.has_scheme("https"), "a certificate is shown by https alone");
        Ok(Named { to, certificates: certificates.into(), key: key.into() })
    }
}

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--client-certificate {}", self.to.text)
    }
}

/// What connections to some destinations are made with.
#[derive(Clone)]
pub(super) struct Identity {
    to: Grant,
    config: Arc<ClientConfig>,
}

impl Identity {
    /// Reads the files. `config` makes a configuration of what they have.
    pub(super) fn read(
        named: &Named,
        log: &Log,
        config: impl FnOnce(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) -> Result<ClientConfig, Error>,
    ) -> Result<Identity> {
        let chain = certificates(&named.certificates)
            .with_context(|| format!("{named}: {}", named.certificates.display()))?;
        let (key, is_open) = key(&named.key).with_context(|| format!("{named}: {}", named.key.display()))?;
        if is_open {
            let key = named.key.display();
            log.server(format_args!(
                "{named}: everybody on this machine can read or change the key {key}; chmod 600 it"
            ));
        }
        let config = config(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(_) => anyhow::anyhow!("the key is not that of the certificate"),
            error => error.into(),
        });
        let config = config.with_context(|| named.to_string())?;
        Ok(Identity { to: named.to.clone(), config: Arc::new(config) })
    }

    pub(super) fn config_for(&self, to: &Destination) -> Option<&Arc<ClientConfig>> {
        self.to.has(to).then_some(&self.config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file::read(path)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    // The library's words are about the parser, and may quote what it has read.
    chain.context("has no certificates (PEM), or a malformed one")
}

/// And whether others can do something with its file.
fn key(path: &Path) -> Result<(PrivateKeyDer<'static>, bool)> {
    let mut file = file::open(path)?;
    let is_open = file.metadata()?.permissions().mode() & OTHERS != 0;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let key = PrivateKeyDer::from_pem_slice(&content);
    Ok((key.ok().context("has no private key (PEM) without a password")?, is_open))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_a_destination_and_two_files() {
        let named: Named = "https://*.example.com:8443=a=b.pem,key.pem".parse().unwrap();
        assert_eq!((named.certificates, named.key), ("a=b.pem".into(), "key.pem".into()));
        assert_eq!(&*named.to.text, "https://*.example.com:8443");
        for (text, says) in [
            ("https://a.test", "expected DESTINATION="),
            ("https://a.test=cert.pem", "expected DESTINATION="),
            ("https://a.test=cert.pem,", "expected DESTINATION="),
            ("https://a.test=a,b,c", "expected DESTINATION="),
            ("a.test=a,b", "expected SCHEME://HOST"),
            ("http://a.test=a,b", "by https alone"),
        ] {
            let error = text.parse::<Named>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
