//! One running copy of the guest, with its own memory: how it is made, what it
//! may use, and the two kinds of call that it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, ComponentType, Lower};
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::filesystem::{FsPerms, WasiFilesystemCtx};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpView, p2, p3};

use crate::clock::{self, Nanos};
use crate::config::{Folder, Options};
use crate::deferred::{Call, Deferred};
use crate::error::{DeadlinePassed, Failure};
use crate::guest::{Callback, Handler, Program};
use crate::imports::http::Hooks;
use crate::imports::stdio::Output;
use crate::logging::Log;
use crate::response::Link;
use crate::stats::Stats;

/// Resources of one kind of table (WASI's, the component model's) that one
/// instance may hold at a time.
const RESOURCES_MAX: usize = 10_000;

/// What one element of a table takes.
pub const ELEMENT_BYTES: usize = 8;

/// What all instances of a server share.
pub struct Host {
    pub log: Log,
    pub stats: Arc<Stats>,
    pub deferred: Arc<Deferred>,
    /// Deferred calls that one guest call may schedule.
    pub deferred_per_call_max: u64,
    /// Bytes of one deferred call's payload.
    pub payload_bytes_max: u64,
    /// Memory of one instance.
    pub memory_bytes_max: usize,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// The folders, opened once: a fresh instance needs no system call for them.
    files: WasiFilesystemCtx,
}

impl Host {
    pub fn new(
        options: &Options,
        log: Log,
        stats: Arc<Stats>,
        deferred: Arc<Deferred>,
    ) -> anyhow::Result<Host> {
        Ok(Host {
            log,
            stats,
            deferred,
            deferred_per_call_max: options.deferred_per_call,
            payload_bytes_max: options.deferred_payload.0 as u64,
            memory_bytes_max: options.memory_limit.0,
            environment: options.guest_environment()?,
            arguments: vec![options.guest_name()],
            files: open_folders(&options.dir)?,
        })
    }

    fn wasi(&self, stdout: &Output, stderr: &Output) -> WasiCtx {
        let mut builder = WasiCtx::builder();
        builder.stdout(stdout.clone()).stderr(stderr.clone()).args(&self.arguments).envs(&self.environment);
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        let mut wasi = builder.build();
        *wasi.filesystem() = self.files.clone();
        wasi
    }
}

fn open_folders(folders: &[Folder]) -> anyhow::Result<WasiFilesystemCtx> {
    let mut builder = WasiCtx::builder();
    for folder in folders {
        let perms = if folder.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        builder.preopened_dir(&folder.host, &folder.guest, perms)?;
    }
    Ok(builder.build().filesystem().clone())
}

/// When a guest call must have ended. It is shared between the call, whose guest
/// may be computing, and whoever moves it.
#[derive(Debug)]
pub struct Deadline(AtomicU64);

impl Deadline {
    pub fn at(nanos: Nanos) -> Arc<Deadline> {
        Arc::new(Deadline(AtomicU64::new(nanos)))
    }

    pub fn nanos(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }

    pub fn move_to(&self, nanos: Nanos) {
        self.0.store(nanos, Ordering::Relaxed);
    }
}

/// The host's side of one instance.
pub struct State {
    pub(crate) server: Arc<Host>,
    /// Deferred calls that the guest call under way has scheduled.
    pub(crate) deferred_scheduled: u64,
    deadline: Arc<Deadline>,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    stdout: Output,
    stderr: Output,
    memory_bytes: usize,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// All memories and tables of an instance together stay under `--memory-limit`.
impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(fits(desired, maximum) && self.grow(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(ELEMENT_BYTES);
        Ok(fits(desired, maximum) && self.grow(bytes(current), bytes(desired)))
    }
}

/// What is refused at the guest's own maximum must not be counted as grown.
fn fits(desired: usize, maximum: Option<usize>) -> bool {
    maximum.is_none_or(|maximum| desired <= maximum)
}

impl State {
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let bytes = (self.memory_bytes - current).saturating_add(desired);
        let fits = bytes <= self.server.memory_bytes_max;
        if fits {
            self.memory_bytes = bytes;
        }
        fits
    }
}

/// One running copy of the guest.
pub struct Instance {
    store: Store<State>,
    exports: wasmtime::component::Instance,
    handler: Exports,
    /// Guest calls that it has begun.
    pub calls: u32,
}

enum Exports {
    P2(p2::bindings::Proxy),
    P3(p3::bindings::Service),
}

/// The head of a response with the body that follows, or `wasi:http`'s name of
/// an error.
pub type Head = Result<Response<WasiBody>, String>;

/// A guest call after its end. The instance may serve another call only if the
/// call ended well; it is still there after a failure so that whoever waits for
/// the response learns of the failure before the instance goes.
pub struct Ended {
    pub instance: Option<Instance>,
    pub result: Result<(), Failure>,
}

impl Program {
    /// Serves a request, in `instance` if one is given. The head of the response
    /// goes to `head`, its body belongs to the head.
    pub async fn handle(
        self: Arc<Self>,
        instance: Option<Instance>,
        deadline: Arc<Deadline>,
        request: Request<WasiBody>,
        head: oneshot::Sender<Head>,
        link: Arc<Link>,
    ) -> Ended {
        let mut instance = match self.ready(instance, deadline).await {
            Ok(instance) => instance,
            Err(failure) => return Ended { instance: None, result: Err(failure) },
        };
        let result = instance.handle(request, head, link).await;
        instance.ended(result.map_err(Failure::from_trap))
    }

    /// Runs a deferred call, in `instance` if one is given.
    pub async fn run_callback(
        self: Arc<Self>,
        instance: Option<Instance>,
        deadline: Arc<Deadline>,
        call: Call,
    ) -> Ended {
        let callback =
            self.callback.as_ref().expect("a guest that schedules calls was checked to have a callback");
        let mut instance = match self.ready(instance, deadline).await {
            Ok(instance) => instance,
            Err(failure) => return Ended { instance: None, result: Err(failure) },
        };
        let result = match instance.run(callback, call).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(Failure::CallbackError(message)),
            Err(error) => Err(Failure::from_trap(error)),
        };
        instance.ended(result)
    }

    async fn ready(&self, instance: Option<Instance>, deadline: Arc<Deadline>) -> Result<Instance, Failure> {
        let mut instance = match instance {
            Some(mut instance) => {
                instance.begin(deadline);
                instance
            }
            None => self.instantiate(deadline).await.map_err(|error| match Failure::from_trap(error) {
                Failure::Trap(error) => Failure::Instantiation(error),
                deadline => deadline,
            })?,
        };
        instance.calls += 1;
        Ok(instance)
    }

    async fn instantiate(&self, deadline: Arc<Deadline>) -> wasmtime::Result<Instance> {
        let mut store = self.store(deadline);
        let exports = self.pre.instantiate_async(&mut store).await?;
        let handler = match &self.handler {
            Handler::P2(indices) => Exports::P2(indices.load(&mut store, &exports)?),
            Handler::P3(indices) => Exports::P3(indices.load(&mut store, &exports)?),
        };
        self.host.stats.instances_created.inc();
        Ok(Instance { store, exports, handler, calls: 0 })
    }

    fn store(&self, deadline: Arc<Deadline>) -> Store<State> {
        let server = self.host.clone();
        let (stdout, stderr) = (Output::new(server.log.clone()), Output::new(server.log.clone()));
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let wasi = server.wasi(&stdout, &stderr);
        let state = State {
            server,
            deferred_scheduled: 0,
            deadline,
            table,
            wasi,
            http: WasiHttpCtx::new(),
            hooks: Hooks,
            stdout,
            stderr,
            memory_bytes: 0,
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| state);
        store.epoch_deadline_callback(at_epoch);
        store.set_epoch_deadline(1);
        store.set_max_component_handles(RESOURCES_MAX);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(RESOURCES_MAX);
        }
        store
    }
}

/// What happens when a guest computes for longer than a tick of `deadline`: it
/// is stopped at its deadline, and before that lets others run.
fn at_epoch(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    if clock::now() >= store.data().deadline.nanos() {
        return Err(DeadlinePassed.into());
    }
    // tokio's own yield polls its timers and sockets before this task again.
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

impl Instance {
    fn begin(&mut self, deadline: Arc<Deadline>) {
        let state = self.store.data_mut();
        state.deadline = deadline;
        state.deferred_scheduled = 0;
        self.store.set_epoch_deadline(1);
    }

    fn ended(self, result: Result<(), Failure>) -> Ended {
        let state = self.store.data();
        state.stdout.finish_line();
        state.stderr.finish_line();
        Ended { instance: Some(self), result }
    }

    async fn handle(
        &mut self,
        request: Request<WasiBody>,
        head: oneshot::Sender<Head>,
        link: Arc<Link>,
    ) -> wasmtime::Result<()> {
        match &self.handler {
            Exports::P2(proxy) => {
                let mut http = self.store.data_mut().http();
                let request = http.new_incoming_request(p2::bindings::http::types::Scheme::Http, request)?;
                let out = http.new_response_outparam_from_callback(|response| {
                    let _ = head.send(response.map_err(|code| format!("{code:?}")));
                })?;
                proxy.wasi_http_incoming_handler().call_handle(&mut self.store, request, out).await
            }
            Exports::P3(service) => {
                let call = async |accessor: &Accessor<State>| {
                    handle_p3(accessor, service, request, head, link).await
                };
                self.store.run_concurrent(call).await?
            }
        }
    }

    async fn run(&mut self, callback: &Callback, call: Call) -> wasmtime::Result<Result<(), String>> {
        let run = self
            .exports
            .get_typed_func::<(DeferredCall,), (Result<(), String>,)>(&mut self.store, callback.run)?;
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
    service: &p3::bindings::Service,
    request: Request<WasiBody>,
    head: oneshot::Sender<Head>,
    link: Arc<Link>,
) -> wasmtime::Result<()> {
    let request = accessor.with(|mut store| {
        let request = with_whole_target(request);
        let (request, _received) = p3::Request::from_http(store.get().http().hooks, request);
        request
    });
    match service.handle(accessor, request).await? {
        Ok(response) => {
            let sent = link.clone().sent();
            let response = accessor.with(|mut store| response.into_http(&mut store, sent))?;
            let _ = head.send(Ok(response));
        }
        Err(code) => {
            let _ = head.send(Err(format!("{code:?}")));
            return Ok(());
        }
    }
    // The store's event loop, which this runs in, carries the body from the
    // guest's stream to the response; it must turn until all of it is over.
    no_task_left(accessor).await;
    link.body_needs_no_guest().await;
    Ok(())
}

/// For HTTP/1, the authority is in the Host header, where `wasi:http` 0.3 does not
/// look for it.
fn with_whole_target(mut request: Request<WasiBody>) -> Request<WasiBody> {
    let host = request.headers().get(http::header::HOST).map(|host| host.as_bytes().to_vec());
    let authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.authority = target.authority.or(authority);
    if target.authority.is_some() {
        target.scheme = Some(Scheme::HTTP);
    }
    // The parts were valid before, and an authority with a scheme is, too.
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    request
}

async fn no_task_left(accessor: &Accessor<State>) {
    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
}

/// `deferred-call` of the contract.
#[derive(ComponentType, Lower)]
#[component(record)]
struct DeferredCall {
    id: u64,
    payload: Box<[u8]>,
    #[component(name = "scheduled-at")]
    scheduled_at: u64,
    #[component(name = "due-at")]
    due_at: u64,
    attempt: u32,
}

impl From<Call> for DeferredCall {
    fn from(call: Call) -> DeferredCall {
        DeferredCall {
            id: call.id,
            payload: call.payload,
            scheduled_at: clock::unix_nanos(call.scheduled),
            due_at: clock::unix_nanos(call.due),
            attempt: call.attempt,
        }
    }
}
