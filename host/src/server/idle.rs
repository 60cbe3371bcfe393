//! What no call needs any more: instances on idle cores, and memories that are ready for the
//! next.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::dispatch::Dispatch;
use crate::program::instance::Instance;
use crate::request::current::Current;

/// Idle instances are looked at no more often.
const IDLE_TURN_MIN: Duration = Duration::from_millis(100);

/// Gives back what no call has used for `kept_time`.
pub(super) async fn give_back(
    dispatch: Arc<Dispatch<Instance>>,
    workers: Vec<Arc<Current>>,
    kept_time: Duration,
) {
    let mut turns = tokio::time::interval((kept_time / 4).max(IDLE_TURN_MIN));
    loop {
        turns.tick().await;
        let time = clock::coarse().saturating_sub(kept_time.as_nanos() as clock::Nanos);
        drop(dispatch.take_kept(|instance| instance.has_rested_since(time)));
        workers.iter().for_each(|worker| worker.for_request().trim(time));
    }
}
