//! `wasi:filesystem`, as far as it is ours.

/// What changes files and folders.
mod changes;
/// The same by WASI 0.3.
mod concurrent;
/// What all of these have in common.
mod descriptors;
/// How folders are listed.
mod listing;
/// What changes nothing.
mod reading;
/// What wasmtime does, in threads that may block.
mod threads;

use wasmtime::component::{Linker, LinkerInstance};

pub(crate) use self::changes::{
    create_directory_at, remove_directory_at, rename_at, set_times_at, unlink_file_at,
};
pub(crate) use self::reading::stat_at;
use crate::sandbox::state::State;

/// The name under which wasmtime offers it.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// Takes the place of wasmtime's functions.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut defined = define(&mut linker.instance(INTERFACE)?);
    if is_concurrent {
        defined = defined.and(concurrent::define(linker));
    }
    linker.allow_shadowing(false);
    defined
}

fn define(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    reading::define(types)?;
    listing::define(types)?;
    changes::define(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: [&str; 22] = [
        "advise",
        "append-via-stream",
        "create-directory-at",
        "get-flags",
        "is-same-object",
        "link-at",
        "metadata-hash-at",
        "open-at",
        "read",
        "read-via-stream",
        "remove-directory-at",
        "rename-at",
        "set-size",
        "set-times",
        "set-times-at",
        "stat-at",
        "symlink-at",
        "sync",
        "sync-data",
        "unlink-file-at",
        "write",
        "write-via-stream",
    ];

    /// Under other names they would stand beside wasmtime's, unused.
    #[test]
    fn they_take_the_place_of_wasmtimes_own() {
        let engine = wasmtime::Engine::default();
        let (mut own, mut wasmtimes) = (Linker::new(&engine), Linker::new(&engine));
        define(&mut own.instance(INTERFACE).unwrap()).unwrap();
        wasmtime_wasi::p2::add_to_linker_async(&mut wasmtimes).unwrap();
        for function in FUNCTIONS {
            for linker in [&mut own, &mut wasmtimes] {
                let mut types = linker.instance(INTERFACE).unwrap();
                let added = types.func_wrap(&format!("[method]descriptor.{function}"), |_, ()| Ok(()));
                assert!(added.is_err(), "{function} was not there");
            }
        }
    }
}
