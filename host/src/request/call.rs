//! The guest call that answers a request, and who drives it.
//!
//! Up to the head of the response the guest runs in the task of its connection:
//! most guests are done by then, and no other task, queue or timer was touched.
//! One that is not done goes on in a task of its own (`Call::drive`), which lives
//! until the call has ended, the client has left, or a deadline passed.

use std::collections::VecDeque;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::body::{self, RequestBody};
use super::response::{ResponseBody, Source, poll_frame_now};
use super::service::Service;
use super::unsent::{Taken, Unsent};
use crate::clock;
use crate::connection::Client;
use crate::connection::exchange::Exchange;
use crate::dispatch::CoreGuard;
use crate::error::Failure;
use crate::program::guest::Program;
use crate::program::instance::{Ended, Instance, Place};
use crate::program::reuse;
use crate::sandbox::deadline::Deadline;
use crate::sandbox::imports::gateway::{check_length, check_status};
use crate::sandbox::transfer::{BodyState, Driver, Link, Verdict};
use crate::terminal::escape::Target;

/// Frames of a response that are collected before its head is sent, if the guest
/// gives them without waiting. A response that is complete by then needs neither
/// a task of its own nor chunks.
const READY_FRAMES_MAX: usize = 4;

/// A guest for which nobody waits has so much time to end its locks on files, at most: others
/// may wait for these.
const LOCKED_TIME_MAX: Duration = Duration::from_millis(100);

/// A guest call that is under way. The guest is declared before the core, since
/// fields are dropped in this order: a core is free when its instance is gone.
pub struct Call {
    guest: Guest,
    core: CoreGuard<Instance>,
    service: Arc<Service>,
    deadline: Arc<Deadline>,
    head: oneshot::Receiver<Head>,
    driver: Driver,
    exchange: Exchange,
    is_head_request: bool,
    /// See `Face::closes`.
    closes: bool,
    name: RequestName,
}

/// How the log names a request in a line that is not its own.
#[derive(Clone)]
pub struct RequestName {
    method: Method,
    uri: Uri,
}

impl RequestName {
    pub fn new<B>(request: &Request<B>) -> RequestName {
        RequestName { method: request.method().clone(), uri: request.uri().clone() }
    }
}

impl Display for RequestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, Target(self.uri.path()))
    }
}

/// The guest's side of a call.
enum Guest {
    Running(Pin<Box<dyn Future<Output = Ended> + Send>>),
    Ended(Ended),
}

impl Guest {
    /// Lets the guest run as far as it can. True if it has ended.
    fn poll(&mut self, driver: &Driver, cx: &mut Context<'_>) -> bool {
        if let Guest::Running(future) = self
            && let Poll::Ready(ended) = driver.run(|| future.as_mut().poll(cx))
        {
            *self = Guest::Ended(ended);
        }
        matches!(self, Guest::Ended(_))
    }

    fn drop_instance(&mut self) {
        if let Guest::Ended(ended) = self {
            ended.instance = None;
        }
    }

    /// See `Instance::end_trailers`.
    fn end_trailers(&mut self) {
        if let Guest::Ended(Ended { instance: Some(instance), .. }) = self {
            instance.end_trailers();
        }
    }

    fn take_failure(&mut self) -> Option<Failure> {
        match self {
            Guest::Ended(ended) => std::mem::replace(&mut ended.result, Ok(())).err(),
            Guest::Running(_) => None,
        }
    }
}

/// A response whose frames up to now are in hand.
pub struct Begun {
    head: http::response::Parts,
    ready: VecDeque<Frame<Bytes>>,
    /// What follows, unless all frames are ready.
    rest: Option<WasiBody>,
    failure: Option<Failure>,
    /// The length that the head says.
    length: Option<u64>,
    is_head_request: bool,
}

impl Begun {
    /// All that the head promised is there.
    fn is_as_long_as_promised(&self) -> bool {
        if has_no_body(&self.head, self.is_head_request) {
            return true;
        }
        let bytes = self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        self.length == Some(bytes)
    }

    /// As long as nothing of the body is there, an error tells the client more
    /// than a head without a body.
    pub fn or_failure(mut self) -> Result<Begun, Failure> {
        let has_body = !self.ready.is_empty() || self.rest.is_none();
        match self.failure.take_if(|_| !has_body) {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }
}

impl Call {
    pub fn begin(
        service: &Arc<Service>,
        core: CoreGuard<Instance>,
        program: Arc<Program>,
        place: Place,
        request: Request<Incoming>,
        client: Client,
        name: RequestName,
    ) -> Call {
        let deadline = Deadline::at(clock::after(service.limits.time_max));
        let driver = Driver::new();
        let (sender, head) = oneshot::channel();
        let is_head_request = request.method() == Method::HEAD;
        let limits = service.limits.body;
        let is_http2 = request.version() == Version::HTTP_2;
        let is_awaited = !request.body().is_end_stream() && request.headers().contains_key(header::EXPECT);
        let body = |body| {
            let (exchange, link) = (client.exchange.clone(), driver.link());
            RequestBody::new(body, is_http2, is_awaited, limits, exchange, link).boxed_unsync()
        };
        let request = request.map(body);
        let closes = program.closes;
        Call {
            guest: Guest::Running(Box::pin(program.handle(
                place,
                deadline.clone(),
                request,
                sender,
                driver.link(),
            ))),
            core,
            service: service.clone(),
            deadline,
            head,
            driver,
            exchange: client.exchange,
            is_head_request,
            closes,
            name,
        }
    }

    /// What is to be told of a failure: a guest that fails over a body that broke
    /// a limit did not fail.
    #[cold]
    pub fn verdict_on(&self, failure: Failure) -> Failure {
        self.request_failure().or_else(|| self.driver.verdict().map(body::failure)).unwrap_or(failure)
    }

    /// How the request is malformed, or its body was cut short, as far as that is known. Then
    /// whatever the guest makes of it is no answer to a request.
    pub fn request_failure(&self) -> Option<Failure> {
        match self.exchange.fault() {
            Some(fault) => Some(Failure::BadRequest(fault.rule())),
            None => self.driver.verdict().filter(|verdict| *verdict == Verdict::Broken).map(body::failure),
        }
    }

    /// Ends a call whose answer is not sent.
    #[cold]
    pub fn discard(mut self, begun: Begun) {
        if let (Guest::Ended(ended), None, None) = (self.guest, begun.rest, begun.failure) {
            reuse::keep(&mut self.core, ended.instance);
        }
    }

    /// Waits for the head of the response, and takes what is there of its body.
    pub async fn response(&mut self) -> Result<Begun, Failure> {
        // Most guests answer without waiting: then no timer is made.
        let first = std::future::poll_fn(|cx| Poll::Ready(self.poll_head(cx))).await;
        let head = match first {
            Poll::Ready(head) => head?,
            Poll::Pending => {
                let at = clock::instant(self.deadline.nanos());
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
        if self.guest.poll(&self.driver, cx) {
            // It has answered, or gave up the right to, or still has it and is gone.
            let mut failure = || self.guest.take_failure().unwrap_or(Failure::NoResponse);
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
                    let is_enough =
                        begun.ready.len() >= READY_FRAMES_MAX || !self.service.unsent_room.has_room(0);
                    if is_enough && begun.failure.is_none() {
                        return;
                    }
                }
                Poll::Ready(None) => {
                    self.driver.complete_body();
                    begun.rest = None;
                    if ended {
                        return;
                    }
                }
                Poll::Ready(Some(Err(_))) if begun.failure.is_some() && begun.is_as_long_as_promised() => {
                    self.driver.complete_body();
                    begun.rest = None;
                    return;
                }
                Poll::Ready(Some(Err(_))) => {
                    // The guest gave the body up.
                    self.driver.abandon_body();
                    return self.driver.leave();
                }
                Poll::Pending if self.driver.is_passed_on() => {
                    // The guest learns of it now, and most have nothing more to
                    // do then.
                    self.run_guest(begun, cx);
                    return;
                }
                // No one is there any more who could end it.
                Poll::Pending if ended && begun.is_as_long_as_promised() => {
                    self.driver.complete_body();
                    begun.rest = None;
                    return;
                }
                Poll::Pending if ended => return self.driver.leave(),
                Poll::Pending => return,
            }
        }
    }

    /// True if the guest has ended.
    fn run_guest(&mut self, begun: &mut Begun, cx: &mut Context<'_>) -> bool {
        let ended = self.guest.poll(&self.driver, cx);
        if let Some(failure) = self.guest.take_failure() {
            begun.failure = Some(failure);
            self.guest.end_trailers();
            self.driver.end();
        }
        ended
    }

    /// Makes the response that the client gets, and sees to the rest of the call.
    pub fn send(mut self, begun: Begun) -> Response<ResponseBody> {
        let Begun { mut head, mut ready, rest, failure, length, .. } = begun;
        if let Some(failure) = failure {
            self.guest.drop_instance();
            self.service.book.report(&failure, &self.name, Some(self.core.number()));
        }
        if self.driver.verdict().is_some() {
            // The rest of the request was not read, and would be read as the
            // next one.
            head.headers.insert(header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        if status_has_no_body(head.status) {
            // A client would wait for so many bytes (RFC 9110, 8.6 and 15.3.6), and HTTP/2
            // would send it as it is.
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let has_no_body = has_no_body(&head, self.is_head_request);
        let held = self.service.unsent_room.hold(&mut ready);
        let (mut body, rest) = match rest {
            None if has_no_body => (ResponseBody::complete(VecDeque::new(), None), Rest::Nothing),
            Some(rest) if has_no_body => (ResponseBody::complete(VecDeque::new(), None), Rest::NotSent(rest)),
            None => (ResponseBody::complete(ready, length), Rest::Nothing),
            Some(_) if self.driver.guest_is_gone() => (ResponseBody::broken(ready, length), Rest::Nothing),
            Some(rest) => {
                let rest = Unsent::new(rest, self.service.unsent_room.clone());
                (self.stream(ready, rest.clone(), length), Rest::Sent(rest))
            }
        };
        body.set_held(held);
        let is_over = self.driver.is_passed_on() || matches!(rest, Rest::Nothing);
        match self.guest {
            Guest::Ended(ended) if is_over => reuse::keep(&mut self.core, ended.instance),
            guest => {
                self.guest = guest;
                tokio::spawn(self.drive(rest));
            }
        }
        Response::from_parts(head, body)
    }

    fn stream(&self, ready: VecDeque<Frame<Bytes>>, rest: Arc<Unsent>, length: Option<u64>) -> ResponseBody {
        let (link, deadline, exchange) = (self.driver.link(), self.deadline.clone(), self.exchange.clone());
        ResponseBody::streaming(ready, Source { body: rest, link, deadline, exchange }, length)
    }

    /// Drives the rest of the call, in a task of its own.
    async fn drive(mut self, mut rest: Rest) {
        let at = clock::instant(self.deadline.nanos());
        match tokio::time::timeout_at(at, self.body_is_over(&mut rest)).await {
            Ok(Ok(BodyState::Over | BodyState::PassedOn)) => self.finish_tail().await,
            Ok(Ok(BodyState::Abandoned | BodyState::Open)) => self.leave(rest).await,
            Ok(Err(failure)) => self.end_after(failure, rest).await,
            Err(_) => self.end_after(Failure::Deadline, rest).await,
        }
    }

    /// Runs the guest until the body is over or needs it no more, or the guest has failed.
    async fn body_is_over(&mut self, rest: &mut Rest) -> Result<BodyState, Failure> {
        let link = self.driver.link();
        let mut over = std::pin::pin!(link.body_is_over());
        std::future::poll_fn(|cx| {
            loop {
                let ended = self.guest.poll(&self.driver, cx);
                if let Some(failure) = self.guest.take_failure() {
                    return Poll::Ready(Err(failure));
                }
                if ended {
                    self.driver.end();
                    if self.driver.is_passed_on() {
                        return Poll::Ready(Ok(BodyState::PassedOn));
                    }
                }
                if !rest.take(ended, &self.driver, cx) {
                    return over.as_mut().poll(cx).map(Ok);
                }
            }
        })
        .await
    }

    /// The client left, or the guest gave the body up: the guest call is cancelled with its store.
    async fn leave(self, rest: Rest) {
        self.driver.leave();
        if self.closes {
            // By this the guest learns of it: there is nobody to send to.
            drop(rest);
            self.close().await;
        }
    }

    /// The call ends where it is. What the guest has sent is delivered, and may be all: that shows
    /// as long as its store is there.
    async fn end_after(mut self, failure: Failure, mut rest: Rest) {
        self.report(failure);
        self.driver.cut();
        std::future::poll_fn(|cx| {
            self.guest.poll(&self.driver, cx);
            self.guest.end_trailers();
            rest.take_last(&self.driver, cx);
            Poll::Ready(())
        })
        .await;
        self.driver.leave();
    }

    fn report(&self, failure: Failure) {
        let failure = self.verdict_on(failure);
        self.service.book.report(&failure, &self.name, Some(self.core.number()));
    }

    /// There is no one to answer any more. What the guest has to close has a budget of its own;
    /// one that has closed it in time serves on.
    async fn close(mut self) {
        if self.guest_ends_within(self.service.limits.close_time_max, LOCKED_TIME_MAX).await.is_ok() {
            self.keep_instance();
        }
    }

    /// The response is complete; what the guest still does has a budget of its
    /// own.
    async fn finish_tail(mut self) {
        let time = self.service.limits.tail_time_max;
        match self.guest_ends_within(time, time).await {
            Ok(()) => self.keep_instance(),
            // The client's fault, which the guest need not foresee.
            Err(_) if self.request_failure().is_some() => {}
            Err(failure) => {
                // The request had its response: this is not its failure.
                self.service.book.stats().tails_stopped.inc();
                let core = self.core.number();
                self.service
                    .book
                    .log()
                    .server(format_args!("the tail of {} on core {core}: {failure}", self.name));
            }
        }
    }

    /// The time is cut to `locked` as soon as the guest holds a lock on a file.
    async fn guest_ends_within(&mut self, time: Duration, locked: Duration) -> Result<(), Failure> {
        let until = clock::after(time);
        self.deadline.move_to(until);
        let mut timer = std::pin::pin!(tokio::time::sleep_until(clock::instant(until)));
        let mut is_cut = false;
        std::future::poll_fn(|cx| {
            if self.guest.poll(&self.driver, cx) {
                return Poll::Ready(Ok(()));
            }
            if !is_cut && self.deadline.are_locks_held() {
                is_cut = true;
                let until = until.min(clock::after(locked));
                self.deadline.move_to(until);
                timer.as_mut().reset(clock::instant(until));
            }
            timer.as_mut().poll(cx).map(|()| Err(Failure::Deadline))
        })
        .await?;
        self.guest.take_failure().map_or(Ok(()), Err)
    }

    fn keep_instance(mut self) {
        if let Guest::Ended(ended) = self.guest {
            reuse::keep(&mut self.core, ended.instance);
        }
    }
}

/// What follows the frames that were ready, as the guest call sees it.
enum Rest {
    Nothing,
    Sent(Arc<Unsent>),
    /// The response has no body. It is read so that the guest can end.
    NotSent(WasiBody),
}

impl Rest {
    /// Takes what the guest gives without waiting. True if it may have room for more, so
    /// that it should be run again at once.
    fn take(&mut self, guest_has_ended: bool, link: &Link, cx: &mut Context<'_>) -> bool {
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
    fn take_last(&mut self, link: &Link, cx: &mut Context<'_>) {
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

/// What HTTP demands of a response, and the HTTP library takes for granted: a status that is
/// that of a response, and at most one length, which is given.
pub(crate) fn check_head(head: &http::response::Parts) -> Result<Option<u64>, Failure> {
    check_status(head.status).and_then(|()| check_length(&head.headers, None)).map_err(Failure::GuestError)
}

pub(crate) fn has_no_body(head: &http::response::Parts, is_head_request: bool) -> bool {
    is_head_request || status_has_no_body(head.status)
}

fn status_has_no_body(status: StatusCode) -> bool {
    [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}
