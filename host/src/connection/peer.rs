//! Is the client still there? The kernel knows of a connection that is closed or
//! reset; of a TCP client that sends no more it knows only after it was sent
//! something.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};

/// What is known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Present,
    /// It sends no more; whether it still listens is not known.
    SendsNoMore,
    Gone,
}

/// Looks at a connection, without waiting.
///
/// # Safety
/// `fd` must be open.
pub(super) unsafe fn look(fd: RawFd) -> Peer {
    // SAFETY: the caller's promise.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&at_once)).is_err() {
        return Peer::Present;
    }
    let events = fds[0].revents();
    if events.intersects(PollFlags::HUP | PollFlags::ERR) {
        Peer::Gone
    } else if events.contains(PollFlags::RDHUP) {
        Peer::SendsNoMore
    } else {
        Peer::Present
    }
}

/// Sends what makes a client that is gone known: its kernel answers with a reset.
/// An interim response may be sent at any time before the final one (RFC 9110,
/// 15.2), and this one clients discard if they did not ask for it.
///
/// # Safety
/// `fd` must be open.
pub(super) unsafe fn probe(fd: RawFd) -> Peer {
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    // SAFETY: the caller's promise.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    match send(fd, INTERIM, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) if sent == INTERIM.len() => Peer::SendsNoMore,
        // Nothing else was on its way: there is no room for 25 bytes only in a
        // connection that is as good as gone.
        _ => Peer::Gone,
    }
}
