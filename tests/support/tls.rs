//! Servers of TLS for guests to connect to, with an authority of their own.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::peers::Peer;

/// Who vouches for the servers of a test, and for their clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The server's side of a connection.
pub type Stream = StreamOwned<ServerConnection, TcpStream>;

impl Authority {
    pub fn new() -> Authority {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::default();
        // Else a certificate of one would look like a forged one of another.
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names, and its key.
    pub fn certificate(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server with such a certificate.
    pub fn server(&self, names: &[&str]) -> ServerConfig {
        let (chain, key) = self.identity(names);
        begin().with_no_client_auth().with_single_cert(chain, key).unwrap()
    }

    /// One that demands a certificate of the same authority.
    pub fn server_of_known_clients(&self, names: &[&str]) -> ServerConfig {
        let (chain, key) = self.identity(names);
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        begin().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap()
    }

    fn identity(&self, names: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.certificate(names);
        (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

fn begin() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap()
}

/// A peer that does this with each connection.
pub fn peer(
    config: ServerConfig,
    serve: impl Fn(&mut Stream) -> std::io::Result<()> + Send + Sync + 'static,
) -> Peer {
    let config = Arc::new(config);
    Peer::start(move |stream| serve(&mut wrapped(&config, stream)?))
}

pub fn wrapped(config: &Arc<ServerConfig>, stream: TcpStream) -> std::io::Result<Stream> {
    let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}
