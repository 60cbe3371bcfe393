//! What of a response's body its guest has not given yet, as the guest call sees it.

use std::sync::Arc;
use std::task::{Context, Poll};

use wasmtime_wasi_http::WasiBody;

use super::unsent::{Taken, Unsent, poll_frame_now};
use crate::sandbox::transfer::Link;

/// What follows the frames that were ready, as the guest call sees it.
pub(super) enum Rest {
    Nothing,
    Sent(Arc<Unsent>),
    /// The response has no body. It is read so that the guest can end.
    NotSent(WasiBody),
}

impl Rest {
    /// Takes what the guest gives without waiting. True if it may have room for more, so
    /// that it should be run again at once.
    pub(super) fn take(&mut self, guest_has_ended: bool, link: &Link, cx: &mut Context<'_>) -> bool {
        match self {
            Rest::Nothing => return false,
            Rest::Sent(unsent) => return note_taken(unsent.take(guest_has_ended, link, cx), link),
            Rest::NotSent(body) => match poll_frame_now(body, cx) {
                Poll::Pending if !guest_has_ended => {}
                Poll::Ready(Some(Ok(_))) => {
                    // Nothing bounds how many there are: others run in between.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending | Poll::Ready(Some(Err(_)) | None) => {
                    *self = Rest::Nothing;
                    link.complete_body();
                }
            },
        }
        false
    }

    /// Takes all that a guest has sent that is about to go.
    pub(super) fn take_last(&mut self, link: &Link, cx: &mut Context<'_>) {
        match self {
            Rest::Nothing => {}
            Rest::Sent(unsent) => {
                note_taken(unsent.take_last(link, cx), link);
            }
            Rest::NotSent(_) => link.complete_body(),
        }
    }
}

/// True if there may be more.
fn note_taken(taken: Taken, link: &Link) -> bool {
    match taken {
        Taken::Frames => return true,
        Taken::Nothing => {}
        Taken::All => link.complete_body(),
        Taken::GivenUp => link.abandon_body(),
    }
    false
}
