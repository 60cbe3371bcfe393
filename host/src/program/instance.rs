//! One running copy of the guest, with its own memory: how it is made, and the
//! two kinds of call that it serves.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::{Accessor, Resource, TypedFunc};
use wasmtime_wasi_http::p2::bindings::http::types::{IncomingRequest, ResponseOutparam, Scheme as P2Scheme};
use wasmtime_wasi_http::{WasiBody, WasiHttpView, p3};

use super::cgi;
use super::link::{AnswerP3, Entry, Handler, Proxy, RequestP3};
use super::{Program, Reuse};
use crate::clock::Nanos;
use crate::connection::client;
use crate::deferred::Call;
use crate::memory::account::Account;
use crate::memory::budget::Share;
use crate::sandbox::deadline::Deadline;
use crate::sandbox::deferred_call::DeferredCall;
use crate::sandbox::imports;
use crate::sandbox::imports::http::Head;
use crate::sandbox::meta_variables;
use crate::sandbox::state::{RequestHead, State};
use crate::sandbox::store::Ground;
use crate::sandbox::transfer::Link;
use crate::statuses::Failure;

/// One running copy of the guest.
pub(crate) struct Instance {
    /// What it is a copy of: workers have programs of their own, and an instance
    /// may change its worker with its core.
    program: Arc<Program>,
    store: Store<State>,
    exports: wasmtime::component::Instance,
    handler: Handle,
    /// Guest calls that it has begun.
    calls: u32,
    /// When its last call ended.
    pub(super) ended: Nanos,
}

/// Where a guest call runs: in an instance that an earlier one left, of the same guest, or in
/// a fresh one, for which there is room.
pub(crate) enum Place {
    Kept(Instance),
    Free(Share),
}

impl Place {
    /// Programs run in a fresh instance each time.
    fn for_program(self) -> Share {
        match self {
            Place::Free(share) => share,
            Place::Kept(_) => unreachable!("an instance of a program is not kept"),
        }
    }
}

/// The export that answers requests, see `Handler`.
enum Handle {
    P2(TypedFunc<(Resource<IncomingRequest>, Resource<ResponseOutparam>), ()>),
    P3(HandleP3),
}

type HandleP3 = TypedFunc<RequestP3, AnswerP3>;

/// A guest call after its end. The instance may serve another call only if the
/// call ended well; it is still there after a failure so that whoever waits for
/// the response learns of the failure before the instance goes.
pub(crate) struct Ended {
    pub instance: Option<Instance>,
    pub result: Result<(), Failure>,
}

impl Program {
    /// Serves a request. The head of the response goes to `head`, its body belongs to the
    /// head.
    pub(crate) async fn handle(
        self: Arc<Self>,
        place: Place,
        deadline: Arc<Deadline>,
        request: Request<WasiBody>,
        head: oneshot::Sender<Head>,
        link: Arc<Link>,
    ) -> Ended {
        let proxy = match &self.entry {
            Entry::Proxy(proxy) => proxy,
            Entry::Command(command) => {
                let ground = self.ground(place.for_program(), deadline);
                let run = cgi::handle(command, ground, request, head, |bytes| self.note_bytes(bytes));
                let result = Box::pin(run).await;
                return Ended { instance: None, result };
            }
        };
        let mut instance = match self.ready(proxy, place, deadline).await {
            Ok(instance) => instance,
            Err(failure) => return Ended { instance: None, result: Err(failure) },
        };
        let account = instance.account();
        let result = account.charge(pin!(instance.handle(request, head, link))).await;
        instance.ended(result.map_err(Failure::from_trap))
    }

    /// Runs a deferred call.
    pub(crate) async fn run_callback(
        self: Arc<Self>,
        place: Place,
        deadline: Arc<Deadline>,
        call: Call,
    ) -> Ended {
        let proxy = match &self.entry {
            Entry::Proxy(proxy) => proxy,
            Entry::Command(command) => {
                let ground = self.ground(place.for_program(), deadline);
                let run = cgi::run_callback(command, ground, call, |bytes| self.note_bytes(bytes));
                let result = run.await;
                return Ended { instance: None, result };
            }
        };
        let mut instance = match self.ready(proxy, place, deadline).await {
            Ok(instance) => instance,
            Err(failure) => return Ended { instance: None, result: Err(failure) },
        };
        let account = instance.account();
        let result = match account.charge(pin!(instance.run(call))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(Failure::CallbackError(message)),
            Err(error) => Err(Failure::from_trap(error)),
        };
        instance.ended(result)
    }

    /// The component that answers requests itself, of which there are instances.
    fn proxy(&self) -> &Proxy {
        match &self.entry {
            Entry::Proxy(proxy) => proxy,
            Entry::Command(_) => unreachable!("an instance of a program is not kept"),
        }
    }

    async fn ready(
        self: &Arc<Self>,
        proxy: &Proxy,
        place: Place,
        deadline: Arc<Deadline>,
    ) -> Result<Instance, Failure> {
        let mut instance = match place {
            Place::Kept(mut instance) => {
                instance.begin(deadline);
                instance
            }
            // Boxed, so that a call of an instance that was kept has not its size.
            Place::Free(share) => Box::pin(self.instantiate(proxy, share, deadline)).await?,
        };
        instance.calls += 1;
        Ok(instance)
    }

    async fn instantiate(
        self: &Arc<Self>,
        proxy: &Proxy,
        share: Share,
        deadline: Arc<Deadline>,
    ) -> Result<Instance, Failure> {
        let mut store = self.ground(share, deadline).store();
        let account = store.data().account().clone();
        let instantiated = account
            .charge(pin!(async {
                let exports = proxy.pre.instantiate_async(&mut store).await?;
                let handler = match &proxy.handler {
                    Handler::P2(handle) => Handle::P2(handle.of(&mut store, &exports)?),
                    Handler::P3(handle) => Handle::P3(handle.of(&mut store, &exports)?),
                };
                wasmtime::Result::Ok((exports, handler))
            }))
            .await;
        let (exports, handler) =
            instantiated.map_err(|error| store.data().cause(Failure::from_instantiation(error)))?;
        Ok(Instance { program: self.clone(), store, exports, handler, calls: 0, ended: 0 })
    }

    fn ground(&self, share: Share, deadline: Arc<Deadline>) -> Ground<'_> {
        Ground { engine: &self.engine, host: &self.host, share, deadline }
    }
}

impl Instance {
    fn account(&self) -> Account {
        self.store.data().account().clone()
    }

    /// See `Program::generation`.
    pub(crate) fn generation(&self) -> u64 {
        self.program.generation
    }

    fn begin(&mut self, deadline: Arc<Deadline>) {
        self.store.data_mut().begin_call(deadline);
        self.store.set_epoch_deadline(1);
    }

    fn ended(mut self, result: Result<(), Failure>) -> Ended {
        let state = self.store.data_mut();
        self.program.note_bytes(state.bytes());
        state.end_call(result.is_ok());
        let result = result.map_err(|failure| state.cause(failure));
        Ended { instance: Some(self), result }
    }

    /// Its last call ended before this time.
    pub(crate) fn has_rested_since(&self, time: Nanos) -> bool {
        self.ended < time
    }

    /// It is within the limits for instances that serve one call after the other.
    pub(super) fn may_serve_more(&self) -> bool {
        let Reuse { calls_max, bytes_max } = self.program.reuse;
        let state = self.store.data();
        (calls_max == 0 || self.calls < calls_max) && state.bytes() <= bytes_max && state.is_light()
    }

    /// It serves no more. What it has sent shows its end, if it has one.
    pub(crate) fn end_trailers(&mut self) {
        imports::http::end_trailers(&mut self.store);
    }

    async fn handle(
        &mut self,
        request: Request<WasiBody>,
        head: oneshot::Sender<Head>,
        link: Arc<Link>,
    ) -> wasmtime::Result<()> {
        if self.program.proxy().is_gateway {
            let state = self.store.data_mut();
            let variables = meta_variables::joined(&request, &state.server.address);
            let is_head = request.method() == Method::HEAD;
            state.request = RequestHead { variables, is_head };
        }
        match &self.handler {
            Handle::P2(handle) => {
                let mut http = self.store.data_mut().http();
                let scheme = if client::is_https(&request) { P2Scheme::Https } else { P2Scheme::Http };
                let request = http.new_incoming_request(scheme, request)?;
                let out = http.new_response_outparam_from_callback(|response| {
                    let _ = head.send(response.map_err(|code| format!("{code:?}")));
                })?;
                handle.call_async(&mut self.store, (request, out)).await
            }
            Handle::P3(handle) => {
                let http = self.store.data_mut().http();
                let (request, _received) = p3::Request::from_http(http.hooks, with_whole_target(request));
                let request = http.table.push(request)?;
                let call =
                    async |accessor: &Accessor<State>| handle_p3(accessor, handle, request, head, link).await;
                // Boxed, since all calls would have its size.
                Box::pin(self.store.run_concurrent(call)).await?
            }
        }
    }

    async fn run(&mut self, call: Call) -> wasmtime::Result<Result<(), String>> {
        let callback = self.program.proxy().callback.as_ref();
        let callback = callback.expect("a guest that schedules calls was checked to have a callback");
        let run = callback.run.of(&mut self.store, &self.exports)?;
        let call = DeferredCall::from(call);
        if !callback.is_async {
            return Ok(run.call_async(&mut self.store, (call,)).await?.0);
        }
        let returned = self.store.run_concurrent(async |accessor| {
            let returned = run.call_concurrent(accessor, (call,)).await?.0;
            no_task_left(accessor).await;
            wasmtime::Result::Ok(returned)
        });
        returned.await?
    }
}

async fn handle_p3(
    accessor: &Accessor<State>,
    handle: &HandleP3,
    request: Resource<p3::Request>,
    head: oneshot::Sender<Head>,
    link: Arc<Link>,
) -> wasmtime::Result<()> {
    match handle.call_concurrent(accessor, (request,)).await?.0 {
        Ok(response) => {
            let sent = link.clone().sent();
            let response = accessor.with(|mut store| {
                let response = store.get().http().table.delete(response)?;
                response.into_http(&mut store, sent)
            })?;
            let _ = head.send(Ok(response));
        }
        Err(code) => {
            let _ = head.send(Err(format!("{code:?}")));
            return Ok(());
        }
    }
    // The store's event loop, which this runs in, carries the body from the
    // guest's stream to the response; it must turn until all of it is over.
    let mut over = pin!(async {
        no_task_left(accessor).await;
        link.body_needs_no_guest().await;
    });
    std::future::poll_fn(|cx| match link.is_cut() {
        true => Poll::Ready(()),
        false => over.as_mut().poll(cx),
    })
    .await;
    Ok(())
}

/// For HTTP/1, the authority is in the Host header, where `wasi:http` 0.3 does not
/// look for it.
pub(crate) fn with_whole_target<B>(mut request: Request<B>) -> Request<B> {
    let host = request.headers().get(http::header::HOST).map(|host| host.as_bytes().to_vec());
    let authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.authority = target.authority.or(authority);
    if target.authority.is_some() {
        target.scheme = Some(if client::is_https(&request) { Scheme::HTTPS } else { Scheme::HTTP });
    }
    // The parts were valid before, and an authority with a scheme is, too.
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    request
}

async fn no_task_left(accessor: &Accessor<State>) {
    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
}
