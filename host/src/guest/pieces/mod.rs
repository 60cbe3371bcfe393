//! Instructions that work on much at once, in pieces.
//!
//! One `memory.fill` may write all memory that a guest has, and neither a deadline nor
//! another call gets a turn before it ends. So each instruction of this kind is replaced
//! by a call of a function, added at the end of the module, that does the same in a
//! loop: there the guest can be interrupted. What is seen from inside stays the same; an
//! instruction that traps does so before it has written anything.

/// The function that does one of them.
mod function;
/// A core module, and what is made of it.
mod module;
#[cfg(test)]
mod tests;
/// The instructions.
mod work;

use wasmparser::BinaryReaderError;

use self::work::{SIZES, Sizes};
use crate::guest::rewrite;

/// Changes with what is made of a guest.
pub(crate) const VERSION: u32 = 2;

/// A component or a module that does the same as this one, in pieces.
pub(crate) fn in_pieces(guest: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    in_pieces_of(SIZES, guest)
}

fn in_pieces_of(sizes: Sizes, guest: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    let modules = module::modules(sizes, guest)?;
    rewrite::sections(guest, |payload, content| {
        let Some((_, range)) = payload.as_section() else { return Ok(Some(content.into())) };
        let before = modules.partition_point(|module| module.range.end <= range.start);
        // None if it is a component's own.
        match modules.get(before).filter(|module| module.range.contains(&range.start)) {
            Some(module) if module.has_work() => module.section(sizes, payload, content),
            _ => Ok(Some(content.into())),
        }
    })
}
