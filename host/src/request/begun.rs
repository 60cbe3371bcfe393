//! A response that its guest has begun, and what HTTP demands of its head.

use std::collections::VecDeque;

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use wasmtime_wasi_http::WasiBody;

use crate::sandbox::imports::gateway::{check_length, check_status};
use crate::statuses::Failure;

/// A response whose frames up to now are in hand.
pub(crate) struct Begun {
    pub(super) head: http::response::Parts,
    pub(super) ready: VecDeque<Frame<Bytes>>,
    /// What follows, unless all frames are ready.
    pub(super) rest: Option<WasiBody>,
    pub(super) failure: Option<Failure>,
    /// The length that the head says.
    pub(super) length: Option<u64>,
    pub(super) is_head_request: bool,
}

impl Begun {
    /// All that the head promised is there.
    pub(super) fn is_as_long_as_promised(&self) -> bool {
        if has_no_body(&self.head, self.is_head_request) {
            return true;
        }
        let bytes = self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        self.length == Some(bytes)
    }

    /// As long as nothing of the body is there, an error tells the client more
    /// than a head without a body.
    pub(super) fn or_failure(mut self) -> Result<Begun, Failure> {
        let has_body = !self.ready.is_empty() || self.rest.is_none();
        match self.failure.take_if(|_| !has_body) {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }
}

/// What HTTP demands of a response, and the HTTP library takes for granted: a status that is
/// that of a response, and at most one length, which is given.
pub(crate) fn check_head(head: &http::response::Parts) -> Result<Option<u64>, Failure> {
    check_status(head.status).and_then(|()| check_length(&head.headers, None)).map_err(Failure::GuestError)
}

pub(crate) fn has_no_body(head: &http::response::Parts, is_head_request: bool) -> bool {
    is_head_request || status_has_no_body(head.status)
}

pub(super) fn status_has_no_body(status: StatusCode) -> bool {
    [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}
