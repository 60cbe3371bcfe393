//! A request from its head to its response: what is checked before a guest sees
//! it, the core that it waits for, and what becomes of a failure.

pub(crate) mod access_log;
pub(crate) mod begun;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod callback;
pub(crate) mod current;
mod remaining_body;
pub(crate) mod response;
pub(crate) mod service;
mod under_way;
pub(crate) mod unsent;

use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use self::access_log::{Record, RequestName};
use self::begun::Begun;
use self::call::Call;
use self::response::ResponseBody;
use self::service::Service;
use crate::connection::Client;
use crate::connection::head;
use crate::dispatch::clients::Claim;
use crate::program::reuse;
use crate::statuses::Failure;

impl Service {
    /// Answers a request. If the future is dropped, because the client left, the
    /// guest call is cancelled. `claim` is the client's, if that is counted.
    pub(crate) async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        client: Client,
        claim: Option<Arc<Claim>>,
    ) -> Response<ResponseBody> {
        // Before a field of ours is added.
        let has_too_many_fields = head::fields(&request) > self.limits.head_fields_max;
        let address = client.sign(&mut request);
        let mut record = Record::new(self.book.clone(), &request, address);
        let name = RequestName::new(&request);
        let answer = match has_too_many_fields {
            false => self.answer(request, client, claim, &name, &mut record).await,
            true => Err(Failure::HeadTooLarge),
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(failure) => {
                self.book.report(&failure, &name, record.core());
                failure.response()
            }
        };
        record.note_status(response.status());
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
        if let Some(fault) = client.exchange().fault() {
            return Err(Failure::BadRequest(fault.rule()));
        }
        head::add_missing_host(&mut request);
        head::add_missing_path(&mut request);
        if request.body().size_hint().lower() > self.limits.body.bytes_max {
            return Err(Failure::BodyTooLarge);
        }
        let mut core = self.dispatch.core_for_request(claim).await.map_err(Failure::NoCore)?;
        record.note_core(core.number());
        let program = self.current.for_request();
        let place = reuse::place(&mut core, &program, &self.dispatch, self.limits.room_time_max).await?;
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
}
