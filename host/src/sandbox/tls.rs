//! TLS without input and output: what a guest has received goes in, and what it is to send comes
//! out. The socket is the guest's own affair.

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error};

/// What goes in or comes out at a time. rustls itself holds no more of what was not taken yet.
pub(crate) const PIECE_BYTES_MAX: usize = 64 << 10;
/// A piece that is not read yet, and one more.
const UNREAD_BYTES_MAX: usize = 2 * PIECE_BYTES_MAX;

/// The client's side of a connection.
pub(crate) struct Engine {
    tls: ClientConnection,
    /// What was received, and rustls has not taken yet.
    unread: BytesMut,
    /// What has ended the connection after the handshake: it is told when all before it was read.
    failed: Option<Failure>,
    /// The guest has ended its side.
    is_ended: bool,
    /// How the handshake ended, until it is counted, and nothing more of it then.
    handshake: Handshake,
}

enum Handshake {
    UnderWay,
    Ended(&'static str),
    Counted,
}

/// What ends a connection, beside its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// With the number that OpenSSL has for it.
    Certificate(u32, String),
    Alert(String),
    Protocol(String),
}

impl Failure {
    /// What it is called where it is counted.
    fn name(&self) -> &'static str {
        match self {
            Failure::Certificate(..) => "tls-certificate-error",
            Failure::Alert(_) => "tls-alert-received",
            Failure::Protocol(_) => "tls-protocol-error",
        }
    }
}

/// What was agreed on in the handshake.
pub(crate) struct Facts {
    pub version: String,
    pub cipher: String,
    pub protocol: Vec<u8>,
    pub certificates: Vec<Vec<u8>>,
}

/// What of a connection can be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(Vec<u8>),
    /// The other side has to send more first.
    Nothing,
    End,
}

impl Engine {
    /// Without a name, none is sent. The error says what is wrong with it.
    pub(crate) fn new(mut config: ClientConfig, name: &str) -> Result<Engine, String> {
        let server = match name {
            "" => {
                config.enable_sni = false;
                ServerName::from(Ipv4Addr::UNSPECIFIED)
            }
            name => {
                let parsed = ServerName::try_from(name.to_owned());
                parsed.map_err(|_| format!("{name:?} is no name or address of a server"))?
            }
        };
        let tls = ClientConnection::new(Arc::new(config), server).map_err(|error| error.to_string())?;
        Ok(Engine {
            tls,
            unread: BytesMut::new(),
            failed: None,
            is_ended: false,
            handshake: Handshake::UnderWay,
        })
    }

    /// Takes what was received, if there is room for it. True while the handshake goes on.
    pub(crate) fn feed(&mut self, received: &[u8]) -> Result<bool, Failure> {
        if self.unread.len() + received.len() > UNREAD_BYTES_MAX {
            return Err(Failure::Protocol("more is given than is read".to_owned()));
        }
        self.unread.extend_from_slice(received);
        let is_handshaking = self.tls.is_handshaking();
        let advanced = self.advance();
        if let Handshake::UnderWay = self.handshake {
            self.handshake = match &advanced {
                Err(failure) => Handshake::Ended(failure.name()),
                Ok(()) if self.tls.is_handshaking() => Handshake::UnderWay,
                Ok(()) => Handshake::Ended("done"),
            };
        }
        match advanced {
            Err(failure) if is_handshaking => Err(failure),
            advanced => {
                self.failed = self.failed.take().or(advanced.err());
                Ok(self.tls.is_handshaking())
            }
        }
    }

    /// How the handshake ended; once.
    pub(crate) fn handshake(&mut self) -> Option<&'static str> {
        let Handshake::Ended(outcome) = self.handshake else { return None };
        self.handshake = Handshake::Counted;
        Some(outcome)
    }

    /// Up to the next bytes that can be read.
    fn advance(&mut self) -> Result<(), Failure> {
        loop {
            let state = self.tls.process_new_packets().map_err(Failure::from)?;
            if state.plaintext_bytes_to_read() > 0 || self.unread.is_empty() {
                return Ok(());
            }
            let taken = self.tls.read_tls(&mut (&mut self.unread).reader());
            if taken.map_err(|error| Failure::Protocol(error.to_string()))? == 0 {
                // The other side has ended it; what comes after that says nothing.
                self.unread.clear();
            }
        }
    }

    /// What is to be sent.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut taken = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut taken).expect("memory can be written to");
        }
        taken
    }

    pub(crate) fn read(&mut self, bytes_max: usize) -> Result<Received, Failure> {
        let mut bytes = vec![0; bytes_max.clamp(1, PIECE_BYTES_MAX)];
        let mut count = 0;
        while count < bytes.len() {
            match self.tls.reader().read(&mut bytes[count..]) {
                Ok(0) if count == 0 => return Ok(Received::End),
                Ok(0) => break,
                Ok(read) => count += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.unread.is_empty() => {
                    if let Err(failure) = self.advance() {
                        self.failed.get_or_insert(failure);
                        self.unread.clear();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(Failure::Protocol(error.to_string())),
            }
        }
        bytes.truncate(count);
        match &self.failed {
            _ if count > 0 => Ok(Received::Bytes(bytes)),
            Some(failure) => Err(failure.clone()),
            None => Ok(Received::Nothing),
        }
    }

    /// How much of it was taken.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.is_ended { 0 } else { self.tls.writer().write(bytes).unwrap_or(0) }
    }

    pub(crate) fn end(&mut self) {
        self.is_ended = true;
        self.tls.send_close_notify();
    }

    pub(crate) fn facts(&self) -> Facts {
        let version = match self.tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        };
        let cipher = self.tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let certificates = self.tls.peer_certificates().unwrap_or_default();
        Facts {
            version: version.to_owned(),
            // rustls marks those of TLS 1.3, and IANA does not.
            cipher: cipher.unwrap_or_default().replace("TLS13_", "TLS_"),
            protocol: self.tls.alpn_protocol().unwrap_or_default().to_vec(),
            certificates: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::InvalidCertificate(why) => {
                let (number, text) = meaning(&why);
                Failure::Certificate(number, text.map_or_else(|| why.to_string(), str::to_owned))
            }
            Error::AlertReceived(alert) => Failure::Alert(name(alert)),
            error => Failure::Protocol(error.to_string()),
        }
    }
}

/// The number and the text of OpenSSL, which programs know.
fn meaning(why: &CertificateError) -> (u32, Option<&'static str>) {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (10, Some("certificate has expired"))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (9, Some("certificate is not yet valid"))
        }
        CertificateError::UnknownIssuer => (20, Some("unable to get local issuer certificate")),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (62, None),
        CertificateError::Revoked => (23, Some("certificate revoked")),
        CertificateError::BadSignature => (7, Some("certificate signature failure")),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            (26, Some("unsupported certificate purpose"))
        }
        // X509_V_ERR_UNSPECIFIED
        _ => (1, None),
    }
}

/// `HandshakeFailure` is `HANDSHAKE_FAILURE`.
fn name(alert: AlertDescription) -> String {
    let mut name = String::new();
    let mut before = 'A';
    for letter in alert.as_str().unwrap_or("Unknown").chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
        before = letter;
    }
    name
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::crypto::ring;

    use super::*;

    fn engine(name: &str) -> Result<Engine, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Engine::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(), name)
    }

    #[test]
    fn what_is_no_tls_is_a_failure_that_stays() {
        let mut engine = engine("localhost").unwrap();
        assert!(engine.take().starts_with(b"\x16\x03\x01"), "a handshake begins");
        assert_eq!(engine.take(), b"");
        assert_eq!(engine.read(10), Ok(Received::Nothing));
        for _ in 0..2 {
            let failure = engine.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
            assert!(matches!(failure, Failure::Protocol(_)), "{failure:?}");
        }
        assert!(!engine.take().is_empty(), "the other side is told");
    }

    #[test]
    fn no_more_is_held_than_is_read() {
        let mut engine = engine("").unwrap();
        let failure = engine.feed(&[0; UNREAD_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(failure, Failure::Protocol("more is given than is read".to_owned()));
        let mut taken = 0;
        while let written @ 1.. = engine.write(&[0; PIECE_BYTES_MAX]) {
            taken += written;
        }
        assert_eq!(taken, PIECE_BYTES_MAX, "before the handshake is done");
    }

    #[test]
    fn a_server_has_a_name_or_an_address() {
        for name in ["", "localhost", "a.test.", "127.0.0.1", "::1"] {
            assert!(engine(name).is_ok(), "{name}");
        }
        for name in ["a b", "\u{e9}.test", "a..b", "127.0.0.1:443"] {
            assert!(engine(name).is_err(), "{name}");
        }
    }

    #[test]
    fn alerts_are_named_as_openssl_has_them() {
        assert_eq!(super::name(AlertDescription::HandshakeFailure), "HANDSHAKE_FAILURE");
        assert_eq!(super::name(AlertDescription::UnknownCA), "UNKNOWN_CA");
        assert_eq!(super::name(AlertDescription::CertificateRequired), "CERTIFICATE_REQUIRED");
    }
}
