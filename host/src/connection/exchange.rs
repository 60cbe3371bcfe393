//! One request of a connection with its response: what those who answer it tell the
//! connection, and ask of it.

use std::sync::Arc;

use super::activity::Activity;
use super::fault::Fault;

/// One request of a connection with its response.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    activity: Arc<Activity>,
    /// Which of its connection it is, from 1.
    number: u64,
}

impl Exchange {
    /// What is malformed in the request, as far as it has come. What answers it must break off.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.activity.fault_of(self.number)
    }

    /// Of HTTP/1: the body of the request has not come in whole.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.activity.is_incomplete(self.number)
    }

    /// Someone has the body of the request, and may read it to its end.
    pub(crate) fn note_body_is_wanted(&self) {
        self.activity.note_body_is_wanted(self.number);
    }

    /// Nobody will read the rest of it.
    pub(crate) fn note_body_is_left(&self) {
        self.activity.note_body_is_left(self.number);
    }

    /// It is too late to say that the connection ends with this request.
    pub(crate) fn is_answered(&self) -> bool {
        self.activity.is_answered(self.number)
    }
}

/// Stands for an exchange from the head of its request until its response is complete.
#[derive(Debug)]
pub(super) struct InFlight(Exchange);

impl InFlight {
    /// Notes that a head was read.
    pub(super) fn begin(activity: &Arc<Activity>, takes_interim: bool) -> InFlight {
        let number = activity.begin(takes_interim);
        InFlight(Exchange { activity: activity.clone(), number })
    }

    pub(super) fn exchange(&self) -> Exchange {
        self.0.clone()
    }

    /// See `Activity::leaves_body`.
    pub(super) fn leaves_body(&self, is_chunked: bool) -> bool {
        self.0.activity.leaves_body(self.0.number, is_chunked)
    }

    /// Some of the response was taken.
    pub(super) fn note_progress(&self) {
        self.0.activity.note_progress();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.activity.end();
    }
}
