//! componentize-py links CPython of libraries, each a module of its own. An instance of these looks up
//! each of their 2,500 imports, and writes 6,000 functions into their table, one by one. Here they
//! become one module, of which wasmtime knows all that in advance, and whose functions call each other
//! without a detour.
//!
//! Left out are the modules of wit-component that stand between: their functions are there before the
//! memory is, which what they call needs.

/// A component, as it is read: what its modules have of each other.
mod linked;
/// A core module, as it is read.
mod module;
/// Many core modules, written as one.
mod whole;
/// The component, written with that one.
mod written;

use anyhow::Result;
use wasmparser::{Validator, WasmFeatures};

use self::linked::{Linked, payloads};
use self::written::Written;

/// The component with one module in the place of those.
pub(super) fn merged(component: &[u8]) -> Result<Vec<u8>> {
    let linked = Linked::read(component)?;
    let mut written = Written::new(&linked, component);
    for (payload, depth) in payloads(component) {
        if depth == 1 {
            written.add(&payload?)?;
        }
    }
    Validator::new_with_features(WasmFeatures::all()).validate_all(&written.bytes)?;
    Ok(written.bytes)
}

#[cfg(test)]
mod tests {
    use wasmparser::Payload;
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Engine, Store};

    use super::*;

    /// In the form that wit-component gives to linked libraries.
    const LINKED: &str = r#"(component
        (import "double" (func $double (param "x" s32) (result s32)))
        (core module $between
            (type $unary (func (param i32) (result i32)))
            (table (export "$imports") 1 funcref)
            (func (export "0") (param i32) (result i32)
                (call_indirect (type $unary) (local.get 0) (i32.const 0))))
        (core module $fill
            (import "" "$imports" (table 1 funcref))
            (import "" "0" (func (param i32) (result i32)))
            (elem (i32.const 0) func 0))
        (core module $main
            (memory (export "memory") 1)
            (table (export "table") 4 funcref)
            (global (export "base") i32 (i32.const 2))
            (global (export "calls") (mut i32) (i32.const 0))
            (data (i32.const 8) "\07"))
        (core module $library
            (import "env" "memory" (memory 1))
            (import "env" "table" (table 4 funcref))
            (import "env" "base" (global $base i32))
            (import "env" "calls" (global $calls (mut i32)))
            (import "env" "double" (func $double (param i32) (result i32)))
            (elem (global.get $base) func $seven)
            (func $seven (result i32) (i32.load8_u (i32.const 8)))
            (func (export "seven and twice the calls") (result i32)
                (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                (i32.add (call $double (global.get $calls)) (call_indirect (result i32) (global.get $base)))))
        (core module $top
            (type $other (func (param i64)))
            (import "library" "memory" (memory 1))
            (import "library" "counted" (func $counted (result i32)))
            (func $unused (type $other))
            (func (export "run") (result i32)
                (i32.store8 (i32.const 8) (i32.add (i32.load8_u (i32.const 8)) (i32.const 1)))
                (call $counted)))
        (core func $lowered (canon lower (func $double)))
        (core instance $b (instantiate $between))
        (core instance $m (instantiate $main))
        (core instance $l (instantiate $library (with "env" (instance
            (export "memory" (memory $m "memory"))
            (export "table" (table $m "table"))
            (export "base" (global $m "base"))
            (export "calls" (global $m "calls"))
            (export "double" (func $b "0"))))))
        (core instance $t (instantiate $top (with "library" (instance
            (export "memory" (memory $m "memory"))
            (export "counted" (func $l "seven and twice the calls"))))))
        (core instance (instantiate $fill (with "" (instance
            (export "$imports" (table $b "$imports"))
            (export "0" (func $lowered))))))
        (func (export "run") (result s32) (canon lift (core func $t "run"))))"#;

    fn results(component: &[u8]) -> Vec<i32> {
        let engine = Engine::default();
        let component = Component::new(&engine, component).unwrap();
        let mut linker = Linker::new(&engine);
        linker.root().func_wrap("double", |_, (x,): (i32,)| Ok((2 * x,))).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), (i32,)>(&mut store, "run").unwrap();
        (0..3).map(|_| run.call(&mut store, ()).unwrap().0).collect()
    }

    fn modules(component: &[u8]) -> usize {
        payloads(component)
            .filter(|(payload, _)| matches!(payload, Ok(Payload::ModuleSection { .. })))
            .count()
    }

    #[test]
    fn one_module_does_what_the_linked_ones_do() {
        let linked = wat::parse_str(LINKED).unwrap();
        let merged = merged(&linked).unwrap();
        assert_eq!((modules(&linked), modules(&merged)), (5, 3));
        assert_eq!(results(&linked), [10, 13, 16]);
        assert_eq!(results(&merged), results(&linked));
    }

    #[test]
    fn what_cannot_be_merged_is_an_error() {
        let begins = LINKED
            .replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 1) (func $f) (start $f)");
        assert!(merged(&wat::parse_str(begins).unwrap()).is_err());
        assert!(merged(b"\0asm").is_err());
    }
}
