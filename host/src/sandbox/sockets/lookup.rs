//! The addresses of a name, while they are looked for, and while the guest takes them.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::vec;

use tokio::sync::Semaphore;
use tokio::task::unconstrained;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::name_of_address::Names;
use crate::outbound::Outbound;
use crate::outbound::failure::Failure;
use crate::outbound::sockets::Found;

/// The addresses of one name. What looks for them ends with this.
pub(crate) enum Lookup {
    UnderWay(AbortOnDropJoinHandle<Result<Found, Failure>>),
    Found(Option<String>, vec::IntoIter<IpAddr>),
    Failed(ErrorCode),
}

impl Lookup {
    pub(crate) fn begin(outbound: Arc<Outbound>, name: String, of_one: Arc<Semaphore>) -> Lookup {
        Lookup::UnderWay(spawn(async move { outbound.find(&name, of_one).await }))
    }

    /// None after the last one. Those that the guest gets are added to `names`.
    pub(crate) fn next(&mut self, names: &Names) -> Result<Option<IpAddr>, ErrorCode> {
        // A guest need not wait for it: it may ask again and again.
        let _ = pin!(unconstrained(self.ready())).poll(&mut Context::from_waker(Waker::noop()));
        match self {
            Lookup::UnderWay(_) => Err(ErrorCode::WouldBlock),
            Lookup::Failed(code) => Err(*code),
            Lookup::Found(name, addresses) => {
                let next = addresses.next();
                if let (Some(name), Some(address)) = (name, next) {
                    names.add(name, address);
                }
                Ok(next)
            }
        }
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        let Lookup::UnderWay(under_way) = self else { return };
        *self = match under_way.await {
            Ok(found) => Lookup::Found(found.name, found.addresses.into_iter()),
            Err(failure) => Lookup::Failed(code(&failure)),
        };
    }
}

/// The interface's name of it. A name that is not granted has no address, as far as the guest
/// knows: that is what programs expect of a lookup, and `access-denied` is what they do not.
fn code(failure: &Failure) -> ErrorCode {
    match failure {
        Failure::LookupTimeout | Failure::TooMany => ErrorCode::TemporaryResolverFailure,
        _ => ErrorCode::NameUnresolvable,
    }
}
