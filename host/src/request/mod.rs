//! A request from its head to its response: what is checked before a guest sees
//! it, the core that it waits for, and what becomes of a failure.

pub mod access_log;
pub mod body;
pub mod call;
pub mod callback;
pub mod current;
pub mod response;
pub mod unsent;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use self::access_log::{Book, Record};
use self::call::{Begun, Call, RequestName};
use self::current::Current;
use self::response::ResponseBody;
use self::unsent::Room;
use crate::clock;
use crate::connection::Client;
use crate::connection::head;
use crate::dispatch::clients::Claim;
use crate::dispatch::{CoreGuard, Worker};
use crate::error::{Failure, Level};
use crate::memory::budget::{Budget, Share};
use crate::program::guest::Program;
use crate::program::instance::{Instance, Place};

/// A call that waits for room looks so often whether an idle core has kept an instance.
const ROOM_TURN: Duration = Duration::from_millis(5);

/// Everything that a worker needs to answer requests.
pub struct Service {
    pub current: Arc<Current>,
    pub dispatch: Arc<Worker<Instance>>,
    pub book: Arc<Book>,
    pub limits: Limits,
    /// For what slow clients have not taken yet.
    pub unsent_room: Arc<Room>,
}

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Fields of a head, as far as the HTTP library does not count them.
    pub head_fields_max: usize,
    pub body: body::Limits,
    /// From taking a core until the response is complete.
    pub time_max: Duration,
    /// For guest work after that.
    pub tail_time_max: Duration,
    /// For a gateway's guest to close what it has opened, when its client has left.
    pub close_time_max: Duration,
    /// How long a call waits for room in the memory of all instances.
    pub room_time_max: Duration,
    /// Calls that an instance serves, 0 for no limit.
    pub calls_per_instance: u32,
    /// An instance that takes more serves no further call.
    pub kept_bytes_max: u64,
}

impl Service {
    /// Answers a request. If the future is dropped, because the client left, the
    /// guest call is cancelled. `claim` is the client's, if that is counted.
    pub async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        client: Client,
        claim: Option<Arc<Claim>>,
    ) -> Response<ResponseBody> {
        // Before a field of ours is added.
        let has_too_many_fields = head::fields(&request) > self.limits.head_fields_max;
        let address = client.address.sign(&mut request);
        let mut record = Record::new(self.book.clone(), &request, address);
        let name = RequestName::new(&request);
        let answer = match has_too_many_fields {
            false => self.answer(request, client, claim, &name, &mut record).await,
            true => Err(Failure::HeadTooLarge),
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(failure) => {
                self.report(&failure, &name, record.core);
                failure.response()
            }
        };
        record.status = Some(response.status());
        response.body_mut().set_record(record);
        response
    }

    async fn answer(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        client: Client,
        claim: Option<Arc<Claim>>,
        name: &RequestName,
        record: &mut Record,
    ) -> Result<Response<ResponseBody>, Failure> {
        head::check(&request).map_err(Failure::BadRequest)?;
        if let Some(fault) = client.exchange.fault() {
            return Err(Failure::BadRequest(fault.rule()));
        }
        head::add_missing_host(&mut request);
        head::add_missing_path(&mut request);
        if request.body().size_hint().lower() > self.limits.body.bytes_max {
            return Err(Failure::BodyTooLarge);
        }
        let mut core = self.dispatch.core_for_request(claim).await.map_err(Failure::NoCore)?;
        record.core = Some(core.number());
        let program = self.current.for_request();
        let place = self.place(&mut core, &program, self.limits.room_time_max).await?;
        let mut call = Call::begin(self, core, program, place, request, client, name.clone());
        match call.response().await.and_then(Begun::or_failure) {
            Ok(begun) => match call.request_failure() {
                None => Ok(call.send(begun)),
                Some(failure) => {
                    call.discard(begun);
                    Err(failure)
                }
            },
            Err(failure) => Err(call.verdict_on(failure)),
        }
    }

    /// Counts a failure, and says it in the log if `error` wants that.
    #[cold]
    pub(crate) fn report(&self, failure: &Failure, of: &dyn Display, core: Option<u32>) {
        self.book.stats.count_failure(failure.metric());
        if failure.level() == Level::Line {
            match core {
                Some(core) => self.book.log.server(format_args!("{of} on core {core}: {failure}")),
                None => self.book.log.server(format_args!("{of}: {failure}")),
            }
        }
    }

    /// Where a call of `program` runs on its core: a fresh instance may have to wait for room.
    pub(crate) async fn place(
        &self,
        core: &mut CoreGuard<Instance>,
        program: &Program,
        time_max: Duration,
    ) -> Result<Place, Failure> {
        // One of an older guest is dropped here.
        let kept = core.take_instance().filter(|instance| instance.generation() == program.generation);
        if let Some(instance) = kept {
            return Ok(Place::Kept(instance));
        }
        let (budget, bytes) = (&program.host.budget, program.bytes_expected());
        let share = match budget.try_share(bytes) {
            Some(share) => share,
            None => {
                // Boxed, here and where a core is waited for: all requests would have its size.
                let room = Box::pin(tokio::time::timeout(time_max, self.room(budget, bytes)));
                room.await.map_err(|_| Failure::NoRoom)?
            }
        };
        Ok(Place::Free(share))
    }

    /// Waits for room. Meanwhile idle cores lose what they have kept, one after the other.
    async fn room(&self, budget: &Budget, bytes: u64) -> Share {
        let mut share = std::pin::pin!(budget.share(bytes));
        loop {
            drop(self.dispatch.take_coldest_kept());
            if let Ok(share) = tokio::time::timeout(ROOM_TURN, share.as_mut()).await {
                return share;
            }
        }
    }

    /// Leaves the instance of a call that ended well on its core.
    pub(crate) fn keep(&self, core: &mut CoreGuard<Instance>, instance: Option<Instance>) {
        let Limits { calls_per_instance: calls_max, kept_bytes_max: bytes_max, .. } = self.limits;
        let is_kept = |kept: &Instance| {
            (calls_max == 0 || kept.calls < calls_max) && kept.bytes() <= bytes_max && kept.is_light()
        };
        if let Some(mut instance) = instance.filter(is_kept) {
            instance.ended = clock::coarse();
            core.leave_instance(instance);
        }
    }
}
