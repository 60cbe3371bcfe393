//! What can go wrong on the way to a destination and back.

use std::fmt;
use std::io;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It is not granted.
    Denied,
    /// It is, but not by the addresses that it has.
    AddressDenied,
    /// It is nothing that can be connected to: what is wrong with it.
    Destination(&'static str),
    /// Its name has no address.
    Lookup(Arc<io::Error>),
    LookupTimeout,
    Connect(Arc<io::Error>),
    ConnectTimeout,
    Tls(Arc<io::Error>),
    /// As many requests are under way as may be.
    TooMany,
    FirstByteTimeout,
    BetweenBytesTimeout,
    /// The response breaks a limit: its head is too large.
    HeadTooLarge,
    /// The connection ended before the head of the response.
    Terminated,
    /// It ended in the middle of the response.
    Incomplete,
    /// The response is none.
    Protocol(String),
    /// Its body is in a coding that nobody asked for.
    TransferCoding(String),
    /// The guest does not give the whole body of its request.
    BrokenBody,
    /// What is sent could not be made.
    Request(String),
    /// The guest call that sends it was cut off.
    Cut,
}

impl Failure {
    /// What it is called where it is counted: as `wasi:http` does, whose names are known.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Failure::Denied => "http-request-denied",
            Failure::AddressDenied => "destination-ip-prohibited",
            Failure::Destination(_) => "http-request-uri-invalid",
            Failure::Lookup(_) => "dns-error",
            Failure::LookupTimeout => "dns-timeout",
            Failure::Connect(error) => name_of_connecting(error),
            Failure::ConnectTimeout => "connection-timeout",
            Failure::Tls(error) => name_of_tls(error),
            Failure::TooMany => "connection-limit-reached",
            Failure::FirstByteTimeout | Failure::BetweenBytesTimeout => "connection-read-timeout",
            Failure::HeadTooLarge => "http-response-header-section-size",
            Failure::Terminated => "connection-terminated",
            Failure::Incomplete | Failure::Cut => "http-response-incomplete",
            Failure::Protocol(_) | Failure::BrokenBody => "http-protocol-error",
            Failure::TransferCoding(_) => "http-response-transfer-coding",
            Failure::Request(_) => "internal-error",
        }
    }

    /// The connection ended before there was a response that could be incomplete.
    pub(super) fn before_head(self) -> Failure {
        match self {
            Failure::Incomplete => Failure::Terminated,
            failure => failure,
        }
    }

    /// What the HTTP library says. What our own parts said to it comes back as it was.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Failure {
        // That first: around it the library says that its user has failed.
        let own = causes(error).find_map(|error| error.downcast_ref::<Failure>());
        if let Some(failure) = own {
            return failure.clone();
        }
        for error in causes(error) {
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && let Some(failure) = Failure::of_hyper(error)
            {
                return failure;
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Failure::Tls(Arc::new(io::Error::other(error.clone())));
            }
            if let Some(error) = error.downcast_ref::<io::Error>()
                && let Some(failure) = Failure::of_io(error)
            {
                return failure;
            }
        }
        Failure::Protocol(error.to_string())
    }

    fn of_hyper(error: &hyper::Error) -> Option<Failure> {
        if error.is_parse_too_large() {
            Some(Failure::HeadTooLarge)
        } else if error.is_parse() {
            Some(Failure::Protocol(error.to_string()))
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Some(Failure::Incomplete)
        } else if error.is_body_write_aborted() {
            Some(Failure::BrokenBody)
        } else if error.is_user() {
            Some(Failure::Request(chain(error)))
        } else {
            None
        }
    }

    fn of_io(error: &io::Error) -> Option<Failure> {
        // What is inside of it is not its source.
        if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            return Some(Failure::Tls(Arc::new(io::Error::other(error.clone()))));
        }
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(Failure::Incomplete),
            io::ErrorKind::TimedOut => Some(Failure::BetweenBytesTimeout),
            _ => None,
        }
    }
}

fn name_of_connecting(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection-refused",
        io::ErrorKind::TimedOut => "connection-timeout",
        io::ErrorKind::NetworkUnreachable => "destination-ip-unroutable",
        io::ErrorKind::HostUnreachable => "destination-unavailable",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "connection-terminated",
        _ => "internal-error",
    }
}

fn name_of_tls(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "tls-certificate-error"
        }
        Some(rustls::Error::AlertReceived(_)) => "tls-alert-received",
        Some(_) => "tls-protocol-error",
        None if error.kind() == io::ErrorKind::UnexpectedEof => "connection-terminated",
        None => name_of_connecting(error),
    }
}

/// An error and what has caused it.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Denied => f.write_str("the destination is not granted"),
            Failure::AddressDenied => f.write_str("the address is not granted"),
            Failure::Destination(what) => f.write_str(what),
            Failure::Lookup(error) => write!(f, "the name cannot be looked up: {error}"),
            Failure::LookupTimeout => f.write_str("looking up the name took too long"),
            Failure::Connect(error) => write!(f, "it cannot be connected to: {error}"),
            Failure::ConnectTimeout => f.write_str("connecting took too long"),
            Failure::Tls(error) => write!(f, "TLS: {error}"),
            Failure::TooMany => f.write_str("too many requests are under way"),
            Failure::FirstByteTimeout => f.write_str("the response did not begin in time"),
            Failure::BetweenBytesTimeout => f.write_str("the response did not go on in time"),
            Failure::HeadTooLarge => f.write_str("the head of the response is too large"),
            Failure::Terminated | Failure::Incomplete => f.write_str("the connection ended too early"),
            Failure::Protocol(what) => write!(f, "no response: {what}"),
            Failure::TransferCoding(coding) => write!(f, "the response is in the coding {coding}"),
            Failure::BrokenBody => f.write_str("the body of the request is not whole"),
            Failure::Cut => f.write_str("the call was cut off"),
            Failure::Request(what) => write!(f, "the request cannot be sent: {what}"),
        }
    }
}

impl std::error::Error for Failure {}
