//! Who is believed to be whom: the system's certificate authorities, and those that were named.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::telemetry::log::Log;

/// What a connection over TLS is checked by.
#[derive(Clone)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
}

impl Trust {
    /// The system's authorities, and those of these files.
    pub(crate) fn new(files: &[impl AsRef<Path>], log: &Log) -> Result<Trust> {
        let mut roots = RootCertStore::empty();
        // One that is malformed is of no use, and does no harm.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for file in files {
            let file = file.as_ref();
            let named = || format!("--ca-file {}", file.display());
            let reader = BufReader::new(File::open(file).with_context(named)?);
            let mut count = 0;
            for certificate in CertificateDer::pem_reader_iter(reader) {
                let certificate =
                    certificate.map_err(|error| anyhow::anyhow!("{error}")).with_context(named)?;
                roots.add(certificate).with_context(named)?;
                count += 1;
            }
            ensure!(count > 0, "{}: has no certificates (PEM)", named());
        }
        if roots.is_empty() {
            log.server(format_args!(
                "there are no certificate authorities: no guest can ask by https; install the system's (ca-certificates), or name a file with --ca-file"
            ));
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Trust { config: Arc::new(config) })
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}
