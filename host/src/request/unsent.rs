//! What of a response is taken out of its guest's hands before the client wants it: so
//! many bytes that the guest of most responses is done, and its core free, however slow
//! the client is. What is larger waits with its guest for the client.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::sandbox::transfer::Link;

/// How much may be taken ahead, by all calls of a server.
pub struct Room {
    of_one_max: usize,
    of_all_max: usize,
    held: AtomicUsize,
}

impl Room {
    /// `of_one_max` bytes of one response, `of_all_max` of all. Both may be exceeded by a
    /// frame for each call.
    pub fn new(of_one_max: usize, of_all_max: usize) -> Arc<Room> {
        Arc::new(Room { of_one_max, of_all_max, held: AtomicUsize::new(0) })
    }

    /// Frames that are in hand before anybody takes them. Small ones need no room.
    pub fn hold(self: &Arc<Room>, frames: &mut VecDeque<Frame<Bytes>>) -> Option<Held> {
        let bytes = frames.iter().map(length).sum();
        if bytes <= SMALL_BYTES {
            return None;
        }
        *frames = std::mem::take(frames).into_iter().map(own).collect();
        self.held.fetch_add(bytes, Relaxed);
        Some(Held { room: self.clone(), bytes })
    }

    /// There is room for one more frame beside `bytes` of the same response.
    pub fn has_room(&self, bytes: usize) -> bool {
        bytes < self.of_one_max && self.held.load(Relaxed) < self.of_all_max
    }
}

/// A response that has no more in hand costs less than to count it.
const SMALL_BYTES: usize = 16 << 10;

/// The room that frames in hand take, until their response is gone.
pub struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// The rest of a response's body. Either side takes frames from it: the client's, and the
/// guest call's while the client does not ask.
pub(crate) struct Unsent {
    state: Mutex<State>,
    room: Arc<Room>,
}

struct State {
    taken: VecDeque<Frame<Bytes>>,
    bytes: usize,
    rest: Rest,
    /// The client's side found nothing. It is the one that the guest wakes, and takes
    /// the next frame itself.
    client_waits: bool,
}

/// What follows the frames that were taken.
enum Rest {
    Body(WasiBody),
    Nothing,
    /// The guest gave it up.
    GivenUp,
    /// The guest cannot end it any more. Whether it is whole all the same depends on what
    /// its head promised.
    CutOff,
}

/// What the guest call has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Frames: the guest may have room for more.
    Frames,
    Nothing,
    /// The end.
    All,
    /// There is no end.
    GivenUp,
}

impl Unsent {
    pub(crate) fn new(body: WasiBody, room: Arc<Room>) -> Arc<Unsent> {
        let rest = Rest::Body(body);
        let state = State { taken: VecDeque::new(), bytes: 0, rest, client_waits: false };
        Arc::new(Unsent { state: Mutex::new(state), room })
    }

    /// The next frame for the client. Pending means that none is there.
    pub(crate) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.state.lock();
        if let Some(frame) = state.taken.pop_front() {
            let bytes = length(&frame);
            state.bytes -= bytes;
            self.room.held.fetch_sub(bytes, Relaxed);
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match &mut state.rest {
            Rest::Body(body) => poll_frame_now(body, cx),
            Rest::Nothing => Poll::Ready(None),
            Rest::GivenUp => Poll::Ready(Some(Err(Error::ConnectionTerminated))),
            Rest::CutOff => Poll::Pending,
        };
        state.client_waits = frame.is_pending();
        frame
    }

    /// Takes what the guest gives without waiting, as far as there is room.
    pub(crate) fn take(&self, guest_has_ended: bool, link: &Link, cx: &mut Context<'_>) -> Taken {
        let mut state = self.state.lock();
        let mut found = Taken::Nothing;
        // A body that was passed on needs no core.
        while !state.client_waits && self.room.has_room(state.bytes) && !link.is_passed_on() {
            match self.take_frame(&mut state, guest_has_ended, link, cx) {
                Taken::Frames => found = Taken::Frames,
                Taken::Nothing => return found,
                end => return end,
            }
        }
        found
    }

    /// Takes all that a guest has sent that is about to go, which is no more than a few pieces,
    /// and finds out whether that is the whole body.
    pub(crate) fn take_last(&self, link: &Link, cx: &mut Context<'_>) -> Taken {
        let mut state = self.state.lock();
        while !link.is_passed_on() {
            let taken = self.take_frame(&mut state, true, link, cx);
            if taken != Taken::Frames {
                return taken;
            }
        }
        Taken::Nothing
    }

    fn take_frame(
        &self,
        state: &mut State,
        guest_has_ended: bool,
        link: &Link,
        cx: &mut Context<'_>,
    ) -> Taken {
        let Rest::Body(body) = &mut state.rest else { return Taken::Nothing };
        match poll_frame_now(body, cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = own(frame);
                let bytes = length(&frame);
                state.bytes += bytes;
                self.room.held.fetch_add(bytes, Relaxed);
                state.taken.push_back(frame);
                Taken::Frames
            }
            Poll::Ready(None) => {
                state.rest = Rest::Nothing;
                Taken::All
            }
            // To look at it may be what shows that it was passed on.
            Poll::Pending if !guest_has_ended || link.is_passed_on() => Taken::Nothing,
            Poll::Pending => {
                state.rest = Rest::CutOff;
                Taken::GivenUp
            }
            Poll::Ready(Some(Err(_))) => {
                state.rest = Rest::GivenUp;
                Taken::GivenUp
            }
        }
    }
}

/// Looks for a frame of a guest's body. Pending means that none is there: tokio's
/// cooperative budget, which makes its channels say so too when a task has done
/// much, is left out.
pub(crate) fn poll_frame_now(
    body: &mut WasiBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    pin!(tokio::task::unconstrained(frame)).poll(cx)
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.state.get_mut().bytes, Relaxed);
    }
}

/// The same frame in memory of the server's own. The instance, which may serve others by
/// the time when the client takes it, has it no longer on its account.
fn own(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_data() {
        Ok(data) => Frame::data(Bytes::copy_from_slice(&data)),
        Err(trailers) => trailers,
    }
}

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::sandbox::transfer::Driver;

    struct Channel(mpsc::UnboundedReceiver<Result<&'static str, Error>>);

    impl Body for Channel {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            self.0.poll_recv(cx).map(|text| text.map(|text| text.map(|text| Frame::data(Bytes::from(text)))))
        }
    }

    struct Response {
        guest: mpsc::UnboundedSender<Result<&'static str, Error>>,
        unsent: Arc<Unsent>,
        room: Arc<Room>,
        link: Arc<Link>,
    }

    fn response(of_one_max: usize, of_all_max: usize) -> Response {
        let (guest, body) = mpsc::unbounded_channel();
        let room = Room::new(of_one_max, of_all_max);
        let unsent = Unsent::new(Channel(body).boxed_unsync(), room.clone());
        Response { guest, unsent, room, link: Driver::default().link() }
    }

    impl Response {
        fn take(&self, guest_has_ended: bool) -> Taken {
            self.unsent.take(guest_has_ended, &self.link, &mut Context::from_waker(noop_waker_ref()))
        }

        /// What the client gets: a text, `end`, `broken`, or `nothing` yet.
        fn next(&self) -> String {
            match self.unsent.poll_frame(&mut Context::from_waker(noop_waker_ref())) {
                Poll::Pending => "nothing".to_owned(),
                Poll::Ready(None) => "end".to_owned(),
                Poll::Ready(Some(Err(_))) => "broken".to_owned(),
                Poll::Ready(Some(Ok(frame))) => {
                    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
                }
            }
        }

        fn held(&self) -> usize {
            self.room.held.load(Relaxed)
        }
    }

    #[test]
    fn what_was_taken_comes_in_order_and_then_the_end() {
        let mut response = response(100, 100);
        response.guest.send(Ok("a")).unwrap();
        response.guest.send(Ok("bc")).unwrap();
        assert_eq!((response.take(false), response.held()), (Taken::Frames, 3));
        assert_eq!(response.next(), "a");
        response.guest.send(Ok("d")).unwrap();
        // The guest's side of this body goes.
        response.guest = mpsc::unbounded_channel().0;
        assert_eq!(response.take(true), Taken::All);
        assert_eq!([(); 4].map(|()| response.next()), ["bc", "d", "end", "end"]);
        assert_eq!(response.held(), 0);
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for() {
        for (of_one_max, of_all_max) in [(2, 100), (100, 2), (0, 100)] {
            let response = response(of_one_max, of_all_max);
            (0..5).for_each(|_| response.guest.send(Ok("x")).unwrap());
            response.take(false);
            assert_eq!(response.held(), of_one_max.min(of_all_max));
            assert_eq!([(); 6].map(|()| response.next()), ["x", "x", "x", "x", "x", "nothing"]);
            assert_eq!(response.held(), 0);
        }
    }

    #[test]
    fn a_client_that_waits_takes_it_itself() {
        let response = response(100, 100);
        assert_eq!(response.next(), "nothing");
        response.guest.send(Ok("a")).unwrap();
        assert_eq!((response.take(false), response.held()), (Taken::Nothing, 0));
        assert_eq!(response.next(), "a");
        response.guest.send(Ok("b")).unwrap();
        assert_eq!((response.take(false), response.held()), (Taken::Frames, 1));
    }

    #[test]
    fn what_nobody_can_end_is_broken_behind_what_was_taken() {
        let given_up = response(100, 100);
        given_up.guest.send(Ok("a")).unwrap();
        given_up.guest.send(Err(Error::ConnectionTerminated)).unwrap();
        assert_eq!(given_up.take(false), Taken::GivenUp);
        let unfinished = response(100, 100);
        unfinished.guest.send(Ok("a")).unwrap();
        assert_eq!(unfinished.take(true), Taken::GivenUp);
        for (response, end) in [(given_up, "broken"), (unfinished, "nothing")] {
            assert_eq!([(); 3].map(|()| response.next()), ["a", end, end]);
        }
    }

    #[test]
    fn room_comes_back_with_a_client_that_leaves() {
        let Response { guest, unsent, room, link } = response(100, 100);
        guest.send(Ok("abc")).unwrap();
        unsent.take(false, &link, &mut Context::from_waker(noop_waker_ref()));
        assert_eq!(room.held.load(Relaxed), 3);
        drop(unsent);
        assert_eq!(room.held.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_frame_is_found_by_a_task_that_has_done_much() {
        let (sender, receiver) = mpsc::unbounded_channel();
        for _ in 0..10_000 {
            sender.send(Ok("x")).unwrap();
        }
        let mut body = Channel(receiver).boxed_unsync();
        std::future::poll_fn(|cx| {
            let mut found = 0;
            while Pin::new(&mut body).poll_frame(cx).is_ready() {
                found += 1;
            }
            assert!(found < 10_000, "the budget has no end, and this test no sense");
            assert!(poll_frame_now(&mut body, cx).is_ready());
            Poll::Ready(())
        })
        .await;
    }
}
