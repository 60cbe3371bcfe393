//! Who is believed to be whom: the system's certificate authorities, and those that were named.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::destination::Destination;
use super::identity::{Identity, Named};
use super::verifier::{Checks, Verifier};
use crate::telemetry::log::Log;

/// What a connection over TLS is checked by.
#[derive(Clone)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    /// For destinations to which a certificate is shown.
    identities: Vec<Identity>,
    provider: Arc<CryptoProvider>,
    /// The system's and those that were named.
    roots: Arc<RootCertStore>,
}

/// Authorities that a guest may name for one connection. Bundles of all that browsers believe have some 150.
const AUTHORITIES_MAX: usize = 500;

/// What a guest asks for, of a connection over which it speaks TLS itself.
pub(crate) struct Asked<'a> {
    pub checks: Checks,
    /// The system's authorities are believed, and the operator's.
    pub with_system: bool,
    /// Others that are (PEM).
    pub authorities: &'a str,
    /// The guest's certificates and their key (PEM), or empty.
    pub identity: &'a str,
    /// The best first.
    pub protocols: Vec<Vec<u8>>,
    pub versions: &'a [&'static SupportedProtocolVersion],
}

/// Nothing of it: it has keys.
impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// The system's authorities, and those of these files; and who the server itself is.
    pub(crate) fn new(files: &[impl AsRef<Path>], identities: &[Named], log: &Log) -> Result<Trust> {
        let mut roots = RootCertStore::empty();
        // One that is malformed is of no use, and does no harm.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for file in files {
            let file = file.as_ref();
            let of_file = read(file).with_context(|| format!("--ca-file {}", file.display()))?;
            roots.roots.extend(of_file.roots);
        }
        if roots.is_empty() {
            log.server(format_args!(
                "there are no certificate authorities: no guest can ask by https; install the system's (ca-certificates), or name a file with --ca-file"
            ));
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots.clone());
        let identities = identities.iter().map(|named| {
            Identity::read(named, log, |chain, key| {
                builder.clone().with_client_auth_cert(chain, key).map(of_http)
            })
        });
        let identities = identities.collect::<Result<_>>()?;
        let config = Arc::new(of_http(builder.clone().with_no_client_auth()));
        Ok(Trust { config, identities, provider, roots })
    }

    /// How requests to this destination are made.
    pub(super) fn config(&self, to: &Destination) -> Arc<ClientConfig> {
        let identity = self.identities.iter().find_map(|identity| identity.config_for(to));
        identity.unwrap_or(&self.config).clone()
    }

    /// The same for what is not HTTP.
    pub(crate) fn without_protocols(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols.clear();
        Arc::new(config)
    }

    /// How a guest speaks TLS itself. The error says what is wrong with what it asks for.
    pub(crate) fn config_for(&self, asked: Asked<'_>) -> Result<ClientConfig, String> {
        let mut roots = match asked.with_system {
            true => self.roots.clone(),
            false => Arc::new(RootCertStore::empty()),
        };
        for (certificate, number) in CertificateDer::pem_slice_iter(asked.authorities.as_bytes()).zip(0..) {
            if number == AUTHORITIES_MAX {
                return Err(format!("over {AUTHORITIES_MAX} authorities"));
            }
            let certificate = certificate.map_err(|error| format!("an authority's certificate: {error}"))?;
            // Users name bundles of all kinds; what is not understood is not believed.
            let _ = Arc::make_mut(&mut roots).add(certificate);
        }
        let verifier = Verifier::new(asked.checks, roots, self.provider.clone());
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(asked.versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match asked.identity {
            "" => builder.with_no_client_auth(),
            identity => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.as_bytes()).collect();
                let chain = chain.map_err(|error| format!("the certificate: {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(identity.as_bytes());
                let key = key.map_err(|error| format!("the private key: {error}"))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
            }
        };
        // A session that goes on is not checked again, and the next one may want to be.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = asked.protocols;
        Ok(config)
    }
}

/// The best first.
fn of_http(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn read(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(File::open(file)?)) {
        roots.add(certificate.map_err(|error| anyhow::anyhow!("{error}"))?)?;
    }
    ensure!(!roots.is_empty(), "has no certificates (PEM)");
    Ok(roots)
}
