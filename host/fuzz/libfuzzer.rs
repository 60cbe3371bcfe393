//! What libFuzzer calls: one of the targets of `wasm_serve::fuzzing`, which `FUZZ_TARGET`
//! names.

use std::alloc::System;
use std::env;
use std::ffi::{c_char, c_int};
use std::panic;
use std::process;
use std::sync::OnceLock;

use wasm_serve::fuzzing::{TARGETS, Target};
use wasm_serve::memory::charging::Charging;

#[global_allocator]
static ALLOCATOR: Charging<System> = Charging(System);

static TARGET: OnceLock<Target> = OnceLock::new();

/// libFuzzer calls it at the start.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerInitialize(_count: *mut c_int, _arguments: *mut *mut *mut c_char) -> c_int {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let Some((_, target)) = found else {
        eprintln!("FUZZ_TARGET: expected one of {}", TARGETS.map(|(name, _)| name).join(", "));
        process::exit(64);
    };
    TARGET.get_or_init(|| *target);
    // Also one that a thread or a task would keep to itself.
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print(panic);
        process::abort();
    }));
    0
}

/// libFuzzer calls it with each input.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> c_int {
    let bytes = match size {
        0 => &[],
        // SAFETY: libFuzzer gives so many bytes and keeps them until this returns.
        _ => unsafe { std::slice::from_raw_parts(data, size) },
    };
    if let Some(target) = TARGET.get() {
        target(bytes);
    }
    0
}
