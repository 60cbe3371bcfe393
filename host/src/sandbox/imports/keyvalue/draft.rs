//! In what the drafts of `wasi:keyvalue` differ, and what their interfaces have in common.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Lower, Resource};

use crate::keyvalue::{Error, Store};
use crate::sandbox::state::State;

/// What a function is called with.
pub(super) type Caller<'a> = StoreContextMut<'a, State>;

/// `bucket` of both drafts: a store that was opened.
pub(super) struct Bucket(pub Arc<Store>);

/// `error` of both.
#[derive(ComponentType, Lower)]
#[component(variant)]
pub(super) enum StoreError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    #[expect(dead_code, reason = "a store that is not granted is one that is not there")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<Error> for StoreError {
    fn from(error: Error) -> StoreError {
        match error {
            Error::NoSuchStore => StoreError::NoSuchStore,
            Error::Refused(why) | Error::Unavailable(why) => StoreError::Other(why),
        }
    }
}

pub(super) type Answer<T> = wasmtime::Result<(Result<T, StoreError>,)>;

pub(super) fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    Ok((result.map_err(StoreError::from),))
}

pub(super) fn store(caller: &mut Caller<'_>, bucket: &Resource<Bucket>) -> wasmtime::Result<Arc<Store>> {
    Ok(caller.data_mut().table().get(bucket)?.0.clone())
}

/// What one draft has of its own.
pub(super) trait Draft: 'static {
    const VERSION: &'static str;
    /// No number of its is less.
    const LEAST: i64;
    /// Where a page begins.
    type Cursor: ComponentType + Lift + Lower + Send + Sync + 'static;
    /// What is added, and the sum.
    type Number: ComponentType + Lift + Lower + Send + Sync + 'static;

    fn from_cursor(cursor: Self::Cursor) -> Result<u64, Error>;
    fn cursor(position: u64) -> Self::Cursor;
    fn from_number(number: Self::Number) -> Result<i64, Error>;
    fn number(number: i64) -> Result<Self::Number, Error>;
}

/// As wasmtime and wasmCloud have it.
pub(super) struct Draft1;
/// As Spin has it, and WASI itself since then.
pub(super) struct Draft2;

impl Draft for Draft1 {
    const VERSION: &'static str = "0.2.0-draft";
    const LEAST: i64 = 0;
    type Cursor = u64;
    type Number = u64;

    fn from_cursor(cursor: u64) -> Result<u64, Error> {
        Ok(cursor)
    }

    fn cursor(position: u64) -> u64 {
        position
    }

    fn from_number(number: u64) -> Result<i64, Error> {
        i64::try_from(number).map_err(|_| Error::Refused(format!("more than {} is added", i64::MAX)))
    }

    /// No store gives a sum below the least.
    fn number(number: i64) -> Result<u64, Error> {
        u64::try_from(number).map_err(|_| Error::Refused(format!("the value is below 0: {number}")))
    }
}

impl Draft for Draft2 {
    const VERSION: &'static str = "0.2.0-draft2";
    const LEAST: i64 = i64::MIN;
    type Cursor = String;
    type Number = i64;

    fn from_cursor(cursor: String) -> Result<u64, Error> {
        cursor.parse().map_err(|_| Error::Refused("no list of keys has given this cursor".to_owned()))
    }

    fn cursor(position: u64) -> String {
        position.to_string()
    }

    fn from_number(number: i64) -> Result<i64, Error> {
        Ok(number)
    }

    fn number(number: i64) -> Result<i64, Error> {
        Ok(number)
    }
}
