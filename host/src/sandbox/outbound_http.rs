//! Outbound requests as `wasi:http` has them, in both versions.

use std::io;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt;
use rustls::AlertDescription;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::outbound::Times;
use crate::outbound::failure::Failure;
use crate::outbound::http::{HEAD_BYTES_MAX, HttpClient};
use crate::outbound::sent::Cut;

/// Its response, and what is left to do until its connection is done with it: nothing, since
/// the client sees to that.
type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// Sends a request of an instance that may have `requests` more under way. `most` is how long it
/// waits if it does not say.
pub(super) fn send(
    client: &HttpClient<WasiBody>,
    request: Request<WasiBody>,
    options: RequestOptions,
    most: Times,
    requests: &Arc<Semaphore>,
    cut: Cut,
) -> impl Future<Output = Result<Sent, Error>> + Send + use<> {
    let times = Times {
        connect: options.connect_timeout.unwrap_or(most.connect),
        first_byte: options.first_byte_timeout.unwrap_or(most.first_byte),
        between_bytes: options.between_bytes_timeout.unwrap_or(most.between_bytes),
    };
    let response = client.send(request, times, requests, cut);
    async move {
        let response = response.await.map_err(error)?;
        let done: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async { Ok(()) });
        Ok((response.map(|body| body.map_err(error).boxed_unsync()), done))
    }
}

/// The interface's name of it.
pub(super) fn error(failure: Failure) -> Error {
    match failure {
        Failure::Denied => Error::HttpRequestDenied,
        Failure::AddressDenied => Error::DestinationIpProhibited,
        Failure::Destination(_) => Error::HttpRequestUriInvalid,
        Failure::Lookup(_) => Error::DnsError { rcode: None, info_code: None },
        Failure::LookupTimeout => Error::DnsTimeout,
        Failure::Connect(error) => of_connecting(&error),
        Failure::ConnectTimeout => Error::ConnectionTimeout,
        Failure::Tls(error) => of_tls(&error),
        Failure::TooMany => Error::ConnectionLimitReached,
        Failure::FirstByteTimeout | Failure::BetweenBytesTimeout => Error::ConnectionReadTimeout,
        Failure::HeadTooLarge => Error::HttpResponseHeaderSectionSize(Some(HEAD_BYTES_MAX as u32)),
        Failure::Terminated => Error::ConnectionTerminated,
        Failure::Incomplete | Failure::Cut => Error::HttpResponseIncomplete,
        Failure::Protocol(_) | Failure::BrokenBody => Error::HttpProtocolError,
        Failure::TransferCoding(coding) => Error::HttpResponseTransferCoding(Some(coding)),
        Failure::Request(what) => Error::InternalError(Some(what)),
    }
}

/// What 0.2 calls an error of a body; None for those that bodies do not have.
pub(super) fn code_of_body(error: &Error) -> Option<ErrorCode> {
    Some(match error {
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        Error::HttpResponseHeaderSectionSize(bytes) => ErrorCode::HttpResponseHeaderSectionSize(*bytes),
        Error::TlsProtocolError => ErrorCode::TlsProtocolError,
        Error::InternalError(what) => ErrorCode::InternalError(what.clone()),
        _ => return None,
    })
}

fn of_connecting(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        io::ErrorKind::HostUnreachable => Error::DestinationUnavailable,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Error::ConnectionTerminated,
        _ => Error::InternalError(Some(error.to_string())),
    }
}

fn of_tls(error: &io::Error) -> Error {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => alert_received(*alert),
        Some(_) => Error::TlsProtocolError,
        None if error.kind() == io::ErrorKind::UnexpectedEof => Error::ConnectionTerminated,
        None => of_connecting(error),
    }
}

fn alert_received(alert: AlertDescription) -> Error {
    Error::TlsAlertReceived { alert_id: Some(alert.into()), alert_message: Some(format!("{alert:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest gets is what the figures call it.
    #[test]
    fn errors_are_counted_by_the_name_that_guests_know() {
        let io = |kind: io::ErrorKind| Arc::new(io::Error::from(kind));
        let tls = |error: rustls::Error| Failure::Tls(Arc::new(io::Error::other(error)));
        let failures = [
            Failure::Denied,
            Failure::AddressDenied,
            Failure::Destination("none"),
            Failure::LookupTimeout,
            Failure::Connect(io(io::ErrorKind::ConnectionRefused)),
            Failure::Connect(io(io::ErrorKind::TimedOut)),
            Failure::Connect(io(io::ErrorKind::NetworkUnreachable)),
            Failure::Connect(io(io::ErrorKind::HostUnreachable)),
            Failure::Connect(io(io::ErrorKind::ConnectionReset)),
            Failure::Connect(io(io::ErrorKind::PermissionDenied)),
            Failure::ConnectTimeout,
            tls(rustls::CertificateError::Expired.into()),
            tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA)),
            tls(rustls::Error::DecryptError),
            Failure::Tls(io(io::ErrorKind::UnexpectedEof)),
            Failure::TooMany,
            Failure::FirstByteTimeout,
            Failure::HeadTooLarge,
            Failure::Terminated,
            Failure::Incomplete,
            Failure::Protocol(String::new()),
            Failure::TransferCoding(String::new()),
            Failure::BrokenBody,
            Failure::Request(String::new()),
        ];
        for failure in failures {
            let (name, code) = (failure.name(), format!("{:?}", error(failure)));
            assert!(code.to_ascii_lowercase().starts_with(&name.replace('-', "")), "{name} is {code}");
        }
    }
}
