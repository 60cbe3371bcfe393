//! The program that `run` runs, whose `main` is libFuzzer's. Built in another way, it only
//! says so.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod libfuzzer;

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("It is built by host/fuzz/run.");
}
