//! The host's side of an instance: what it may use, and what it has used.

use std::sync::Arc;

use wasmtime::component::FutureAny;
use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::sockets::WasiSocketsCtx;
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_tls::{WasiTlsCtx, WasiTlsCtxBuilder, WasiTlsCtxView, WasiTlsView};

use super::deadline::Deadline;
use super::files::Files;
use super::files::places::Place;
use super::host::Host;
use super::http_hooks::Hooks;
use super::output::Outputs;
use super::sockets::Sockets;
use super::tls_streams::Client;
use crate::clock;
use crate::memory::account::{self, Account};
use crate::memory::budget::Share;
use crate::named_values::Values;
use crate::statuses::{DeadlinePassed, Failure, HostMemoryExceeded, NoRoom};

/// What one element of a table takes.
pub(crate) const ELEMENT_BYTES: usize = 8;

/// Resources of one kind of table (WASI's, the component model's) that one
/// instance may hold at a time.
pub(crate) const RESOURCES_MAX: usize = 10_000;

/// Random bytes that are made without a break. What WASI 0.3 gives at most at once, which may
/// be less than was asked for.
pub(crate) const RANDOM_PIECE_BYTES: u64 = 64 << 10;

/// What the server may hold for an instance grows in steps of so many bytes: each one is taken
/// from the instance's share when it is needed.
pub(crate) const HOST_STEP_BYTES: u64 = 256 << 10;

/// Pieces that are too small to be counted may take as much as what is counted.
const HOST_FACTOR: u64 = 2;

/// What the server holds at the beginning of an instance.
pub(crate) const HOST_BYTES_MIN: u64 = HOST_FACTOR * HOST_STEP_BYTES;

/// The server gives back what it held for an instance for which it held more than this.
const HOST_BYTES_LITTLE: u64 = 4 << 20;

/// What an instance has of WASI.
enum Wasi {
    /// The context is made when it is first asked for: to answer a request, many guests need
    /// the table alone.
    Component {
        context: Option<Box<WasiCtx>>,
        table: ResourceTable,
    },
    Module(Box<WasiP1Ctx>),
}

impl Wasi {
    fn table(&mut self) -> &mut ResourceTable {
        match self {
            Wasi::Component { table, .. } => table,
            Wasi::Module(wasi) => wasi.ctx().table,
        }
    }
}

/// What all instances are given.
fn context(server: &Host, outputs: &Outputs) -> WasiCtxBuilder {
    let mut builder = WasiCtx::builder();
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    builder.stdout(outputs.stdout.clone()).stderr(outputs.stderr.clone()).args(&server.arguments);
    builder.max_random_size(RANDOM_PIECE_BYTES);
    builder
}

/// The head of a request in the form of `imports::gateway`.
#[derive(Default)]
pub(crate) struct RequestHead {
    pub variables: String,
    pub is_head: bool,
}

/// The host's side of one instance.
pub(crate) struct State {
    /// The first field: it says that a call was cut off, before what the call sends is dropped.
    hooks: Hooks,
    pub(crate) server: Arc<Host>,
    /// What the guest call under way answers, if the guest asks for it in this form.
    pub(crate) request: RequestHead,
    /// Deferred calls that the guest call under way has scheduled.
    pub(crate) deferred_scheduled: u64,
    /// Those of `wasi:config` that the instance has seen.
    pub(crate) values: Option<Arc<Values>>,
    /// Those of the response that the guest made last, by `wasi:http` 0.3.
    pub(crate) trailers: Option<FutureAny>,
    deadline: Arc<Deadline>,
    wasi: Wasi,
    /// Made when a file is first used: most instances use none. Its locks end when nothing
    /// can change files any more.
    files: Option<Box<Files>>,
    /// Made for the first socket, or name that is looked up.
    sockets: Option<Box<Sockets>>,
    /// Made for the first connection by `wasi:tls`.
    tls: Option<WasiTlsCtx>,
    http: WasiHttpCtx,
    /// Made with the context of WASI.
    outputs: Option<Outputs>,
    memory_bytes: usize,
    /// What the server holds for the instance.
    account: Account,
    /// Of that, what the share covers.
    host_bytes: u64,
    /// What the instance has of the memory of all.
    share: Share,
    /// Something was refused because there was no room.
    lacks_room: bool,
    /// The last field, so that all else is gone when it is dropped.
    gives_back: GivesBack,
}

/// Whether what is freed shall go back to the system at once. The allocator keeps it for its
/// thread otherwise, where the budget of all instances knows nothing of it.
#[derive(Default)]
struct GivesBack(bool);

impl Drop for GivesBack {
    fn drop(&mut self) {
        if self.0 {
            account::give_back();
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match &mut self.wasi {
            Wasi::Component { context: made, table } => {
                let made = made.get_or_insert_with(|| {
                    let outputs = self.outputs.insert(Outputs::new(&self.server.log));
                    let mut wasi = context(&self.server, outputs).envs(&self.server.environment).build();
                    *wasi.filesystem() = self.server.files.clone();
                    Box::new(wasi)
                });
                WasiCtxView { ctx: made, table }
            }
            Wasi::Module(wasi) => wasi.ctx(),
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: self.wasi.table(), ctx: &mut self.http }
    }
}

impl WasiTlsView for State {
    fn tls(&mut self) -> WasiTlsCtxView<'_> {
        let ctx = self.tls.get_or_insert_with(|| {
            let client = Client { server: self.server.clone(), account: self.account.clone() };
            WasiTlsCtxBuilder::new().provider(Box::new(client)).build()
        });
        WasiTlsCtxView { ctx, table: self.wasi.table() }
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
    /// The state of a fresh instance of a component.
    pub(crate) fn new(server: Arc<Host>, deadline: Arc<Deadline>, account: Account, share: Share) -> State {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        State {
            request: RequestHead::default(),
            deferred_scheduled: 0,
            values: None,
            trailers: None,
            deadline,
            wasi: Wasi::Component { context: None, table },
            files: None,
            sockets: None,
            tls: None,
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(server.clone()),
            server,
            outputs: None,
            memory_bytes: 0,
            account,
            host_bytes: HOST_STEP_BYTES,
            share,
            lacks_room: false,
            gives_back: GivesBack::default(),
        }
    }

    /// Makes it that of a program, which is a component or a core module. `set` says what the
    /// program is given.
    pub(crate) fn begin_program(&mut self, is_module: bool, set: impl FnOnce(&mut WasiCtxBuilder)) {
        let outputs = self.outputs.insert(Outputs::new(&self.server.log));
        let mut builder = context(&self.server, outputs);
        set(&mut builder);
        match &mut self.wasi {
            Wasi::Component { context, .. } if !is_module => {
                *context = Some(Box::new(builder.build()));
            }
            wasi => *wasi = Wasi::Module(Box::new(builder.build_p1())),
        }
        let files = self.server.files.clone();
        let view = self.ctx();
        view.table.set_max_capacity(RESOURCES_MAX);
        *view.ctx.filesystem() = files;
    }

    /// What a core module has of WASI.
    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        match &mut self.wasi {
            Wasi::Module(wasi) => wasi,
            Wasi::Component { .. } => unreachable!("a component's imports are not those of a core module"),
        }
    }

    pub(crate) fn files(&mut self) -> &mut Files {
        files_of(&mut self.files, &self.deadline)
    }

    pub(crate) fn sockets_of_guest(&mut self) -> &mut Sockets {
        self.sockets.get_or_insert_default()
    }

    /// The resources that the instance holds.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        self.wasi.table()
    }

    /// A place for one more open file. None if all are taken.
    pub(crate) fn take_place(&mut self) -> Option<Place> {
        files_of(&mut self.files, &self.deadline).opened.take(&self.server.places, &self.server.log)
    }

    /// A place for one more socket of UDP, and what that may do.
    pub(crate) fn take_udp(&mut self) -> Result<(Place, WasiSocketsCtx), ErrorCode> {
        let outbound = self.server.outbound.clone();
        if !outbound.grants_udp() {
            return Err(ErrorCode::AccessDenied);
        }
        let place = self.take_place().ok_or(ErrorCode::NewSocketLimit)?;
        Ok((place, self.sockets_of_guest().udp(&outbound)))
    }

    pub(crate) fn are_locks_held(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.are_locks_held())
    }

    pub(crate) fn begin_call(&mut self, deadline: Arc<Deadline>) {
        if let Some(files) = &self.files {
            deadline.show(files.held());
        }
        self.deadline = deadline;
        self.deferred_scheduled = 0;
        self.trailers = None;
        self.lacks_room = false;
        self.request = RequestHead::default();
    }

    /// The guest call has ended, and that well or not.
    pub(crate) fn end_call(&mut self, is_good: bool) {
        if is_good {
            self.hooks.end_call();
        }
        self.outputs.iter().for_each(Outputs::finish_lines);
        // What the call needed and gave back is for others.
        if self.account.bytes() + 2 * HOST_STEP_BYTES < self.host_bytes {
            self.host_bytes = self.account.bytes() + HOST_STEP_BYTES;
            self.account.allow(self.host_bytes);
        }
        self.share.cut(self.bytes());
    }

    /// What the instance takes: its own memory, and what the server holds for it.
    pub(crate) fn bytes(&self) -> u64 {
        self.memory_bytes as u64 + HOST_FACTOR * self.host_bytes
    }

    /// The server holds so little for the instance that another call has most of what it may
    /// have. What clients have not taken yet of earlier responses counts, too.
    pub(crate) fn is_light(&self) -> bool {
        !self.account.is_overdrawn() && self.account.bytes() <= self.server.host_bytes_max / 4
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Whether `failure` is the guest's own, or follows from something that it was refused
    /// for want of room.
    pub(crate) fn cause(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Trap(_) | Failure::Instantiation(_) | Failure::ExitStatus(_) if self.lacks_room => {
                Failure::NoRoom
            }
            failure => failure,
        }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let bytes = (self.memory_bytes - current).saturating_add(desired);
        if bytes > self.server.memory_bytes_max {
            return false;
        }
        let is_covered = self.share.covers(bytes as u64 + HOST_FACTOR * self.host_bytes);
        if is_covered {
            self.memory_bytes = bytes;
        }
        self.lacks_room |= !is_covered;
        is_covered
    }

    /// The server holds more for the instance than was covered until now.
    fn settle(&mut self) -> wasmtime::Result<()> {
        let (held, most) = (self.account.bytes(), self.server.host_bytes_max);
        if held > most {
            return Err(HostMemoryExceeded(most).into());
        }
        let covered = (held + HOST_STEP_BYTES).min(most);
        if !self.share.covers(self.memory_bytes as u64 + HOST_FACTOR * covered) {
            self.lacks_room = true;
            return Err(NoRoom.into());
        }
        self.host_bytes = covered;
        self.account.allow(covered);
        self.gives_back.0 |= covered > HOST_BYTES_LITTLE;
        Ok(())
    }
}

fn files_of<'a>(files: &'a mut Option<Box<Files>>, deadline: &Deadline) -> &'a mut Files {
    files.get_or_insert_with(|| {
        let files = Box::<Files>::default();
        deadline.show(files.held());
        files
    })
}

/// What happens when a guest computes for longer than a tick of `deadline`, or when the server
/// holds more for it than before: it is stopped at its deadline or limit, and before that lets
/// others run.
pub(crate) fn at_epoch(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    if store.data().account.is_overdrawn() {
        store.data_mut().settle()?;
    }
    if clock::now() >= store.data().deadline.nanos() {
        return Err(DeadlinePassed.into());
    }
    // tokio's own yield polls its timers and sockets before this task again.
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// Between two pieces of a long call of the host: the deadline and the limits are looked at,
/// and others run.
pub(crate) fn pause(state: &mut State) -> wasmtime::Result<impl Future<Output = ()> + Send + use<>> {
    if clock::now() >= state.deadline.nanos() {
        return Err(DeadlinePassed.into());
    }
    if state.account.is_overdrawn() {
        state.settle()?;
    }
    Ok(tokio::task::yield_now())
}
