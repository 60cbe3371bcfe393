//! The guest call that answers a request, and who drives it.
//!
//! Up to the head of the response the guest runs in the task of its connection:
//! most guests are done by then, and no other task, queue or timer was touched.
//! One that is not done goes on in a task of its own (`UnderWay::drive`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::access_log::RequestName;
use super::begun::{Begun, check_head, has_no_body, status_has_no_body};
use super::body::RequestBody;
use super::remaining_body::Rest;
use super::response::ResponseBody;
use super::service::Service;
use super::under_way::{Guest, UnderWay};
use super::unsent::{Unsent, poll_frame_now};
use crate::clock;
use crate::connection::Client;
use crate::dispatch::CoreGuard;
use crate::program::Program;
use crate::program::instance::{Instance, Place};
use crate::sandbox::deadline::Deadline;
use crate::sandbox::imports::http::Head;
use crate::sandbox::transfer::Driver;
use crate::statuses::Failure;

/// Frames of a response that are collected before its head is sent, if the guest
/// gives them without waiting. A response that is complete by then needs neither
/// a task of its own nor chunks.
const READY_FRAMES_MAX: usize = 4;

/// A guest call whose response has not been sent.
pub(crate) struct Call {
    under_way: UnderWay,
    head: oneshot::Receiver<Head>,
    is_head_request: bool,
}

impl Call {
    pub(crate) fn begin(
        service: &Arc<Service>,
        core: CoreGuard<Instance>,
        program: Arc<Program>,
        place: Place,
        request: Request<Incoming>,
        client: Client,
        name: RequestName,
    ) -> Call {
        let deadline = Deadline::at(clock::after(service.limits.time_max));
        let driver = Driver::default();
        let (sender, head) = oneshot::channel();
        let is_head_request = request.method() == Method::HEAD;
        let limits = service.limits.body;
        let is_http2 = request.version() == Version::HTTP_2;
        let is_awaited = !request.body().is_end_stream() && request.headers().contains_key(header::EXPECT);
        let body = |body| {
            let (exchange, link) = (client.exchange().clone(), driver.link());
            RequestBody::new(body, is_http2, is_awaited, limits, exchange, link).boxed_unsync()
        };
        let request = request.map(body);
        let closes = program.closes;
        let guest = program.handle(place, deadline.clone(), request, sender, driver.link());
        let under_way = UnderWay {
            guest: Guest::Running(Box::pin(guest)),
            core,
            service: service.clone(),
            deadline,
            driver,
            exchange: client.into_exchange(),
            closes,
            name,
        };
        Call { under_way, head, is_head_request }
    }

    /// See `UnderWay::verdict_on`.
    #[cold]
    pub(crate) fn verdict_on(&self, failure: Failure) -> Failure {
        self.under_way.verdict_on(failure)
    }

    /// See `UnderWay::request_failure`.
    pub(crate) fn request_failure(&self) -> Option<Failure> {
        self.under_way.request_failure()
    }

    /// Ends a call whose answer is not sent.
    #[cold]
    pub(crate) fn discard(self, begun: Begun) {
        if begun.rest.is_none() && begun.failure.is_none() {
            self.under_way.keep_instance();
        }
    }

    /// Waits for the head of the response, and takes what is there of its body.
    pub(crate) async fn response(&mut self) -> Result<Begun, Failure> {
        // Most guests answer without waiting: then no timer is made.
        let first = std::future::poll_fn(|cx| Poll::Ready(self.poll_head(cx))).await;
        let head = match first {
            Poll::Ready(head) => head?,
            Poll::Pending => {
                let at = clock::instant(self.under_way.deadline.nanos());
                let head = std::future::poll_fn(|cx| self.poll_head(cx));
                let head = Box::pin(tokio::time::timeout_at(at, head));
                head.await.map_err(|_| Failure::Deadline)??
            }
        };
        let (head, body) = head.map_err(Failure::GuestError)?.into_parts();
        let length = check_head(&head)?;
        let (ready, is_head_request) = (VecDeque::new(), self.is_head_request);
        let mut begun = Begun { head, ready, rest: Some(body), failure: None, length, is_head_request };
        std::future::poll_fn(|cx| {
            self.collect(&mut begun, cx);
            Poll::Ready(())
        })
        .await;
        Ok(begun)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        if self.under_way.poll_guest(cx) {
            // It has answered, or gave up the right to, or still has it and is gone.
            let mut failure = || self.under_way.guest.take_failure().unwrap_or(Failure::NoResponse);
            return Poll::Ready(self.head.try_recv().map_err(|_| failure()));
        }
        Pin::new(&mut self.head).poll(cx).map(|head| head.map_err(|_| Failure::NoResponse))
    }

    /// Takes the frames that the guest gives without waiting. After a failure, it
    /// takes all that are left while the store is there: so the end of a body that
    /// was complete can be told from one that went with the store.
    fn collect(&mut self, begun: &mut Begun, cx: &mut Context<'_>) {
        loop {
            let ended = self.run_guest(begun, cx);
            let Some(body) = &mut begun.rest else { return };
            match poll_frame_now(body, cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    begun.ready.push_back(frame);
                    let is_enough = begun.ready.len() >= READY_FRAMES_MAX
                        || !self.under_way.service.unsent_room.has_room(0);
                    if is_enough && begun.failure.is_none() {
                        return;
                    }
                }
                Poll::Ready(None) => {
                    self.complete(begun);
                    if ended {
                        return;
                    }
                }
                Poll::Ready(Some(Err(_))) if begun.is_as_long_as_promised() => {
                    return self.complete(begun);
                }
                Poll::Ready(Some(Err(_))) => {
                    // The guest gave the body up.
                    self.under_way.driver.abandon_body();
                    return self.under_way.driver.leave();
                }
                Poll::Pending if self.under_way.driver.is_passed_on() => {
                    // The guest learns of it now, and most have nothing more to
                    // do then.
                    self.run_guest(begun, cx);
                    return;
                }
                // No one is there any more who could end it.
                Poll::Pending if ended && begun.is_as_long_as_promised() => return self.complete(begun),
                Poll::Pending if ended => return self.under_way.driver.leave(),
                Poll::Pending => return,
            }
        }
    }

    /// All of the body is in hand.
    fn complete(&self, begun: &mut Begun) {
        self.under_way.driver.complete_body();
        begun.rest = None;
    }

    /// True if the guest has ended.
    fn run_guest(&mut self, begun: &mut Begun, cx: &mut Context<'_>) -> bool {
        let call = &mut self.under_way;
        let ended = call.poll_guest(cx);
        if let Some(failure) = call.guest.take_failure() {
            begun.failure = Some(failure);
            call.guest.end_trailers();
            call.driver.end();
        }
        ended
    }

    /// Makes the response that the client gets, and sees to the rest of the call.
    pub(crate) fn send(self, begun: Begun) -> Response<ResponseBody> {
        let Call { under_way: mut call, is_head_request, .. } = self;
        let Begun { mut head, mut ready, rest, failure, length, .. } = begun;
        if let Some(failure) = failure {
            call.guest.drop_instance();
            call.say(&failure);
        }
        if call.driver.verdict().is_some() {
            // The rest of the request was not read, and would be read as the
            // next one.
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status_has_no_body(head.status) {
            // A client would wait for so many bytes (RFC 9110, 8.6 and 15.3.6), and HTTP/2
            // would send it as it is.
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let has_no_body = has_no_body(&head, is_head_request);
        let unsent_room = &call.service.unsent_room;
        let held = unsent_room.hold(&mut ready);
        let (mut body, rest) = match rest {
            None if has_no_body => (ResponseBody::complete(VecDeque::new(), None), Rest::Nothing),
            Some(rest) if has_no_body => (ResponseBody::complete(VecDeque::new(), None), Rest::NotSent(rest)),
            None => (ResponseBody::complete(ready, length), Rest::Nothing),
            Some(_) if call.driver.guest_is_gone() => (ResponseBody::broken(ready, length), Rest::Nothing),
            Some(rest) => {
                let rest = Unsent::new(rest, unsent_room.clone());
                (ResponseBody::streaming(ready, call.source(rest.clone()), length), Rest::Sent(rest))
            }
        };
        body.set_held(held);
        call.go_on(rest);
        Response::from_parts(head, body)
    }
}
