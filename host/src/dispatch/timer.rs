//! The timer of deferred calls.

use std::io;
use std::sync::Arc;

use super::Dispatch;
use crate::deferred::Deferred;

/// Starts its thread, which ends with the process.
pub(crate) fn start<I: Send + 'static>(
    dispatch: Arc<Dispatch<I>>,
    deferred: Arc<Deferred>,
) -> io::Result<()> {
    let timer = move || {
        loop {
            let seen = deferred.now();
            dispatch.calls_are_due();
            deferred.wait_until_due(seen);
        }
    };
    std::thread::Builder::new().name("timer".into()).spawn(timer)?;
    Ok(())
}
