//! A guest call that is under way, and who drives it once its response has begun: a task of its
//! own, until the call has ended, the client has left, or a deadline passed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::access_log::RequestName;
use super::body;
use super::remaining_body::Rest;
use super::response::Source;
use super::service::Service;
use super::unsent::Unsent;
use crate::clock;
use crate::connection::exchange::Exchange;
use crate::dispatch::CoreGuard;
use crate::program::instance::{Ended, Instance};
use crate::program::reuse;
use crate::sandbox::deadline::Deadline;
use crate::sandbox::transfer::{BodyState, Driver, Verdict};
use crate::statuses::Failure;

/// A guest for which nobody waits has so much time to end its locks on files, at most: others
/// may wait for these.
const LOCKED_TIME_MAX: Duration = Duration::from_millis(100);

/// A guest call that is under way. The guest is declared before the core, since
/// fields are dropped in this order: a core is free when its instance is gone.
pub(super) struct UnderWay {
    pub(super) guest: Guest,
    pub(super) core: CoreGuard<Instance>,
    pub(super) service: Arc<Service>,
    pub(super) deadline: Arc<Deadline>,
    pub(super) driver: Driver,
    pub(super) exchange: Exchange,
    /// See `Summary::closes`.
    pub(super) closes: bool,
    pub(super) name: RequestName,
}

/// The guest's side of a call.
pub(super) enum Guest {
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

    pub(super) fn drop_instance(&mut self) {
        if let Guest::Ended(ended) = self {
            ended.instance = None;
        }
    }

    /// See `Instance::end_trailers`.
    pub(super) fn end_trailers(&mut self) {
        if let Guest::Ended(Ended { instance: Some(instance), .. }) = self {
            instance.end_trailers();
        }
    }

    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        match self {
            Guest::Ended(ended) => std::mem::replace(&mut ended.result, Ok(())).err(),
            Guest::Running(_) => None,
        }
    }
}

impl UnderWay {
    /// What is to be told of a failure: a guest that fails over a body that broke
    /// a limit did not fail.
    #[cold]
    pub(super) fn verdict_on(&self, failure: Failure) -> Failure {
        self.request_failure().or_else(|| self.driver.verdict().map(body::failure)).unwrap_or(failure)
    }

    /// How the request is malformed, or its body was cut short, as far as that is known. Then
    /// whatever the guest makes of it is no answer to a request.
    pub(super) fn request_failure(&self) -> Option<Failure> {
        match self.exchange.fault() {
            Some(fault) => Some(Failure::BadRequest(fault.rule())),
            None => self.driver.verdict().filter(|verdict| *verdict == Verdict::Broken).map(body::failure),
        }
    }

    /// Lets the guest run as far as it can. True if it has ended.
    pub(super) fn poll_guest(&mut self, cx: &mut Context<'_>) -> bool {
        self.guest.poll(&self.driver, cx)
    }

    /// What the response's body takes from this call.
    pub(super) fn source(&self, body: Arc<Unsent>) -> Source {
        let (link, deadline, exchange) = (self.driver.link(), self.deadline.clone(), self.exchange.clone());
        Source { body, link, deadline, exchange }
    }

    /// The response is on its way: if the guest is not done with it, a task goes on.
    pub(super) fn go_on(self, rest: Rest) {
        let is_over = self.driver.is_passed_on() || matches!(rest, Rest::Nothing);
        match self.guest {
            Guest::Ended(_) if is_over => self.keep_instance(),
            _ => _ = tokio::spawn(self.drive(rest)),
        }
    }

    /// Drives the rest of the call, in a task of its own.
    async fn drive(mut self, mut rest: Rest) {
        let at = clock::instant(self.deadline.nanos());
        match tokio::time::timeout_at(at, self.body_is_over(&mut rest)).await {
            Ok(Ok(BodyState::Over)) => self.finish_tail().await,
            // The guest has ended; its body keeps the deadline of the request.
            Ok(Ok(BodyState::PassedOn)) => self.keep_instance(),
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
                let ended = self.poll_guest(cx);
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
        self.say(&self.verdict_on(failure));
        self.driver.cut();
        std::future::poll_fn(|cx| {
            self.poll_guest(cx);
            self.guest.end_trailers();
            rest.take_last(&self.driver, cx);
            Poll::Ready(())
        })
        .await;
        self.driver.leave();
    }

    /// Counts a failure of this call, and may write it into the log.
    pub(super) fn say(&self, failure: &Failure) {
        self.service.book.report(failure, &self.name, Some(self.core.number()));
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
            if self.poll_guest(cx) {
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

    pub(super) fn keep_instance(mut self) {
        if let Guest::Ended(ended) = self.guest {
            reuse::keep(&mut self.core, ended.instance);
        }
    }
}
