//! The thread in which connections to stores live. They belong to no worker, so that a guest that
//! computes holds up no other's answer. It is started for the first of them.

use std::sync::mpsc::sync_channel;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};

use crate::memory::account::OnNoAccount;

#[derive(Default)]
pub(super) struct Thread(Mutex<Option<Handle>>);

impl Thread {
    /// None if the system has no thread for it now: whoever asks next may get one.
    pub(super) fn handle(&self) -> Option<Handle> {
        let mut handle = self.0.lock();
        if handle.is_none() {
            *handle = start();
        }
        handle.clone()
    }
}

/// It ends with the process: what is under way at a stop has its guest's time.
fn start() -> Option<Handle> {
    let _for_the_server = OnNoAccount::begin();
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let (started, handle) = sync_channel(1);
    let run = move || {
        let _ = started.send(runtime.handle().clone());
        runtime.block_on(std::future::pending::<()>());
    };
    std::thread::Builder::new().name("connections".into()).spawn(run).ok()?;
    handle.recv().ok()
}
