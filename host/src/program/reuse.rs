//! Which instance a call gets: one that an earlier call left on its core, or a fresh one; and
//! whether it stays there for the next call.

use std::time::Duration;

use super::Program;
use super::instance::{Instance, Place};
use crate::clock;
use crate::dispatch::CoreGuard;
use crate::dispatch::Worker;
use crate::memory::budget::{Budget, Share};
use crate::statuses::Failure;

/// A call that waits for room looks so often whether an idle core has kept an instance.
const ROOM_TURN: Duration = Duration::from_millis(5);

/// Where a call of `program` runs on its core: a fresh instance may have to wait for room.
pub(crate) async fn place(
    core: &mut CoreGuard<Instance>,
    program: &Program,
    dispatch: &Worker<Instance>,
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
            // Boxed: all calls would have its size.
            let room = Box::pin(tokio::time::timeout(time_max, room(budget, bytes, dispatch)));
            room.await.map_err(|_| Failure::NoRoom)?
        }
    };
    if program.has_no_addresses() {
        let addresses = Box::pin(tokio::time::timeout(time_max, addresses(program, dispatch)));
        addresses.await.map_err(|_| Failure::NoRoom)?;
    }
    Ok(Place::Free(share))
}

/// Waits for room. Meanwhile idle cores lose what they have kept, one after the other.
async fn room(budget: &Budget, bytes: u64, dispatch: &Worker<Instance>) -> Share {
    let mut share = std::pin::pin!(budget.share(bytes));
    loop {
        drop(dispatch.take_coldest_kept());
        if let Ok(share) = tokio::time::timeout(ROOM_TURN, share.as_mut()).await {
            return share;
        }
    }
}

/// Waits for addresses, as above. Who takes them is first.
async fn addresses(program: &Program, dispatch: &Worker<Instance>) {
    while program.has_no_addresses() {
        if dispatch.take_coldest_kept().is_none() {
            tokio::time::sleep(ROOM_TURN).await;
        }
    }
}

/// Leaves the instance of a call that ended well on its core, if it may serve another.
pub(crate) fn keep(core: &mut CoreGuard<Instance>, instance: Option<Instance>) {
    if let Some(mut instance) = instance.filter(Instance::may_serve_more) {
        instance.ended = clock::coarse();
        core.leave_instance(instance);
    }
}
