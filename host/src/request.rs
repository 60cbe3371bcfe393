//! A request from its head to its response: what is checked before a guest sees
//! it, the core that it waits for, and what becomes of a failure.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use crate::call::{Begun, Call, RequestName};
use crate::clients::Claim;
use crate::connection::Client;
use crate::cores::CoreGuard;
use crate::dispatch::Worker;
use crate::error::{Failure, Level};
use crate::head;
use crate::instance::Instance;
use crate::record::{Book, Record};
use crate::request_body;
use crate::response::ResponseBody;
use crate::swap::Current;

/// Everything that a worker needs to answer requests.
pub struct Service {
    pub current: Arc<Current>,
    pub dispatch: Arc<Worker<Instance>>,
    pub book: Arc<Book>,
    pub limits: Limits,
}

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub body: request_body::Limits,
    /// From taking a core until the response is complete.
    pub time_max: Duration,
    /// For guest work after that.
    pub tail_time_max: Duration,
    /// Calls that an instance serves, 0 for no limit.
    pub calls_per_instance: u32,
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
        let address = client.address.sign(request.headers_mut());
        let mut record = Record::new(self.book.clone(), &request, address);
        let name = RequestName::new(&request);
        let mut response = match self.answer(request, client, claim, &name, &mut record).await {
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
        head::add_missing_host(&mut request);
        if request.body().size_hint().lower() > self.limits.body.bytes_max {
            return Err(Failure::BodyTooLarge);
        }
        let core = self.dispatch.core_for_request(claim).await.map_err(Failure::NoCore)?;
        record.core = Some(core.number());
        let mut call = Call::begin(self, core, request, client, name.clone());
        match call.response().await.and_then(Begun::or_failure) {
            Ok(begun) => Ok(call.send(begun)),
            Err(failure) => Err(call.verdict_on(failure)),
        }
    }

    /// Counts a failure, and says it in the log if `error` wants that.
    pub(crate) fn report(&self, failure: &Failure, of: &dyn Display, core: Option<u32>) {
        self.book.stats.count_failure(failure.metric());
        if failure.level() == Level::Line {
            match core {
                Some(core) => self.book.log.server(format_args!("{of} on core {core}: {failure}")),
                None => self.book.log.server(format_args!("{of}: {failure}")),
            }
        }
    }

    /// Leaves the instance of a call that ended well on its core.
    pub(crate) fn keep(&self, core: &mut CoreGuard<Instance>, instance: Option<Instance>) {
        let limit = self.limits.calls_per_instance;
        if let Some(instance) = instance.filter(|instance| limit == 0 || instance.calls < limit) {
            core.leave_instance(instance);
        }
    }
}
