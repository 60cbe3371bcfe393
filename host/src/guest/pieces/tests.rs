//! What is done in pieces is the same, and can be interrupted.

use proptest::prelude::*;
use wasmtime::{Config, Engine, Instance, Module, Store, UpdateDeadline, Val};

use super::*;

const SMALL: Sizes = Sizes { bytes: 16, elements: 4 };

/// Arrays, and functions that change them and then show what is in them in a memory.
const ARRAYS: &str = r#"
            (type $numbers (array (mut i16)))
            (type $references (array (mut i31ref)))
            (memory $s (export "shown") 1)
            (elem $i i31ref (ref.i31 (i32.const 1)) (ref.i31 (i32.const 2)) (ref.i31 (i32.const 3))
                (ref.i31 (i32.const 4)) (ref.i31 (i32.const 5)) (ref.i31 (i32.const 6))
                (ref.i31 (i32.const 7)) (ref.i31 (i32.const 8)) (ref.i31 (i32.const 9)))
            (global $one (ref $numbers) (array.new $numbers (i32.const 5) (i32.const 40)))
            (global $other (ref $numbers) (array.new $numbers (i32.const 6) (i32.const 40)))
            (global $r (ref $references) (array.new_default $references (i32.const 40)))
            (global $none (ref null $numbers) (ref.null $numbers))
            (func (export "array-fill") (param i32 i32 i32)
                (array.fill $numbers (global.get $one) (local.get 0) (local.get 1) (local.get 2))
                (array.fill $references
                    (global.get $r) (local.get 0) (ref.i31 (local.get 1)) (local.get 2))
                (call $show))
            (func (export "array-copy") (param i32 i32 i32)
                (array.copy $numbers $numbers
                    (global.get $one) (local.get 0) (global.get $one) (local.get 1) (local.get 2))
                (array.copy $references $references
                    (global.get $r) (local.get 0) (global.get $r) (local.get 1) (local.get 2))
                (call $show))
            (func (export "array-copy-other") (param i32 i32 i32)
                (array.copy $numbers $numbers
                    (global.get $other) (local.get 0) (global.get $one) (local.get 1) (local.get 2))
                (call $show))
            (func (export "array-init-data") (param i32 i32 i32)
                (array.init_data $numbers $d
                    (global.get $one) (local.get 0) (local.get 1) (local.get 2))
                (call $show))
            (func (export "array-init-elements") (param i32 i32 i32)
                (array.init_elem $references $i
                    (global.get $r) (local.get 0) (local.get 1) (local.get 2))
                (call $show))
            (func (export "array-none") (param i32 i32 i32)
                (array.fill $numbers (global.get $none) (local.get 0) (local.get 1) (local.get 2)))
            (func (export "drop-elements") (elem.drop $i))
            (func $show (local $at i32)
                (loop $next
                    (i32.store16 $s (i32.mul (local.get $at) (i32.const 2))
                        (array.get_u $numbers (global.get $one) (local.get $at)))
                    (i32.store16 $s offset=100 (i32.mul (local.get $at) (i32.const 2))
                        (array.get_u $numbers (global.get $other) (local.get $at)))
                    (if (i32.eqz (ref.is_null (array.get $references (global.get $r) (local.get $at))))
                        (then (i32.store8 $s offset=200 (local.get $at)
                            (i31.get_u (array.get $references (global.get $r) (local.get $at))))))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $at) (i32.const 40)))))"#;

/// Functions `fill`, `copy` and so on, for memories and tables with addresses of these types.
fn module(memory: &str, other_memory: &str, table: &str) -> String {
    let count = if memory == other_memory { memory } else { "i32" };
    format!(
        r#"(module
            (import "" "" (func))
            (memory $m (export "memory") {memory} 1)
            (memory $o (export "other") {other_memory} 1)
            (table $t (export "table") {table} 40 funcref)
            (table $p {table} 40 externref)
            (elem $e func 0 1 2 3 0 1 2 3 0 1 2 3 0 1 2 3 0 1 2 3 0 1 2 3)
            (data $d "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
            (func (export "fill") (param {memory} i32 {memory})
                (memory.fill $m (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param {memory} {memory} {memory})
                (memory.copy $m $m (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy-other") (param {memory} {other_memory} {count})
                (memory.copy $m $o (local.get 0) (local.get 1) (local.get 2)))
            (func (export "init") (param {memory} i32 i32)
                (memory.init $m $d (local.get 0) (local.get 1) (local.get 2)))
            (func (export "drop") (data.drop $d))
            (func (export "table-fill") (param {table} i32 {table})
                (table.fill $t (local.get 0) (ref.func 1) (local.get 2))
                (table.fill $p (local.get 0) (ref.null extern) (local.get 2)))
            (func (export "table-copy") (param {table} {table} {table})
                (table.copy $t $t (local.get 0) (local.get 1) (local.get 2)))
            (func (export "table-init") (param {table} i32 i32)
                (table.init $t $e (local.get 0) (local.get 1) (local.get 2)))
            {ARRAYS})"#
    )
}

fn engine() -> Engine {
    let mut config = Config::new();
    config.epoch_interruption(true).wasm_memory64(true);
    Engine::new(&config).unwrap()
}

/// What becomes of a new instance: for each call how it ended, and what was in it then.
fn results(engine: &Engine, module: &[u8], calls: &[(&str, [u64; 3])]) -> Vec<(String, Vec<u8>, String)> {
    let module = Module::new(engine, module).unwrap();
    let mut store = Store::new(engine, 0);
    store.set_epoch_deadline(1);
    let import = wasmtime::Func::wrap(&mut store, || {});
    let instance = Instance::new(&mut store, &module, &[import.into()]).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    let other = instance.get_memory(&mut store, "other").unwrap();
    let shown = instance.get_memory(&mut store, "shown").unwrap();
    let table = instance.get_table(&mut store, "table").unwrap();
    let functions: Vec<_> = instance.exports(&mut store).filter_map(|export| export.into_func()).collect();
    for (index, byte) in memory.data_mut(&mut store).iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    other.data_mut(&mut store).fill(7);
    let mut results = Vec::new();
    for (name, operands) in calls {
        let function = instance.get_func(&mut store, name).unwrap();
        let of = function.ty(&store);
        let params = of.params().zip(*operands).map(|(of, value)| match of {
            wasmtime::ValType::I64 => Val::I64(value as i64),
            _ => Val::I32(value as i32),
        });
        let params: Vec<_> = params.collect();
        let ended = match function.call(&mut store, &params, &mut []) {
            Ok(()) => String::new(),
            Err(error) => error.root_cause().to_string(),
        };
        let elements = (0..40).map(|index| {
            let element = table.get(&mut store, index).unwrap();
            let function = element.unwrap_func().copied();
            let is = |it: &wasmtime::Func| {
                function.is_some_and(|function| function.to_raw(&mut store) == it.to_raw(&mut store))
            };
            functions.iter().position(is).map_or('.', |index| char::from(b'a' + index as u8))
        });
        let elements: String = elements.collect();
        let bytes = [memory.data(&store), &shown.data(&store)[..300]].concat();
        results.push((ended, bytes, elements));
    }
    results
}

fn call() -> impl Strategy<Value = (&'static str, [u64; 3])> {
    const NAMES: [&str; 15] = [
        "fill",
        "copy",
        "copy-other",
        "init",
        "table-fill",
        "table-copy",
        "table-init",
        "drop",
        "array-fill",
        "array-copy",
        "array-copy-other",
        "array-init-data",
        "array-init-elements",
        "array-none",
        "drop-elements",
    ];
    let place = prop_oneof![
        4 => 0..100u64,
        1 => 0..41u64,
        2 => 65_400..65_540u64,
        1 => 0xffff_ff00..=0xffff_ffffu64,
        1 => 0..10u64,
        1 => (u64::MAX - 200)..=u64::MAX,
    ];
    let count = prop_oneof![4 => 0..200u64, 1 => 0x7fff_ffe0..0x8000_0020u64, 2 => 0..41u64, 1 => 65_400..65_540u64, 1 => any::<u64>()];
    (prop::sample::select(&NAMES[..]), place.clone(), place, count)
        .prop_map(|(name, to, from, count)| (name, [to, from, count]))
}

proptest! {
    #[test]
    fn what_is_done_in_pieces_is_the_same(
        calls in prop::collection::vec(call(), 1..12),
        types in prop::sample::select(&[
            ["i32", "i32", "i32"], ["i64", "i64", "i64"], ["i64", "i32", "i32"], ["i32", "i64", "i64"],
        ][..]),
    ) {
        let module = wat::parse_str(module(types[0], types[1], types[2])).unwrap();
        let engine = engine();
        let pieces = in_pieces_of(SMALL, &module).unwrap();
        prop_assert!(pieces != module);
        prop_assert_eq!(results(&engine, &module, &calls), results(&engine, &pieces, &calls));
    }
}

#[test]
fn between_two_pieces_a_guest_can_be_interrupted() {
    let module = wat::parse_str(module("i32", "i32", "i32")).unwrap();
    let engine = engine();
    let turns = |module: &[u8], name: &str, operands: [i32; 3]| {
        let module = Module::new(&engine, module).unwrap();
        let mut store = Store::new(&engine, 0);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            *store.data_mut() += 1;
            Ok(UpdateDeadline::Continue(0))
        });
        let import = wasmtime::Func::wrap(&mut store, || {});
        let instance = Instance::new(&mut store, &module, &[import.into()]).unwrap();
        engine.increment_epoch();
        *store.data_mut() = 0;
        let function = instance.get_func(&mut store, name).unwrap();
        function.call(&mut store, &operands.map(Val::I32), &mut []).unwrap();
        *store.data()
    };
    let pieces = in_pieces_of(SMALL, &module).unwrap();
    for (name, operands, pieces_min) in [
        ("fill", [0, 1, 1600], 100),
        ("copy", [0, 8, 1600], 100),
        ("copy", [8, 0, 1600], 100),
        ("copy-other", [0, 8, 1600], 100),
        ("init", [0, 0, 62], 3),
        ("table-fill", [0, 0, 40], 10),
        ("table-copy", [0, 1, 39], 9),
        ("table-init", [0, 0, 24], 6),
        // Of numbers, and of references.
        ("array-fill", [0, 0, 40], 60),
        ("array-copy", [0, 1, 39], 58),
        ("array-copy", [1, 0, 39], 58),
        ("array-copy-other", [1, 0, 39], 49),
        ("array-init-data", [0, 0, 31], 47),
        ("array-init-elements", [0, 0, 9], 46),
    ] {
        let turns = [&module, &pieces].map(|module| turns(module, name, operands));
        assert!(turns[0] < pieces_min && turns[1] >= pieces_min, "{name}: {turns:?} of {pieces_min}");
    }
}

#[test]
fn modules_within_components_are_changed_and_the_rest_stays() {
    let changed = r#"(core module (memory 1) (func (param i32)
        (memory.fill (i32.const 0) (i32.const 0) (local.get 0))))"#;
    let small = r#"(core module (memory 1) (func
        (memory.fill (i32.const 0) (i32.const 0) (i32.const 100))))"#;
    let size = |modules: &str| {
        let component = wat::parse_str(format!("(component {modules} (type (list u8)))")).unwrap();
        let pieces = in_pieces(&component).unwrap();
        wasmparser::Validator::new().validate_all(&pieces).unwrap();
        pieces.len() - component.len()
    };
    let added = size(changed);
    assert!(added > 50);
    assert_eq!(size(small), 0);
    let two = size(&format!("{small} (component {changed} {small}) {changed}"));
    // Sizes may take a byte more.
    assert!((2 * added..2 * added + 4).contains(&two), "{added} {two}");
}

#[test]
fn what_names_nothing_is_left_to_the_compiler() {
    let wrong =
        wat::parse_str("(module (func (memory.fill 3 (i32.const 0) (i32.const 0) (i32.const 0x200000))))");
    let wrong = wrong.unwrap();
    assert_eq!(in_pieces(&wrong).unwrap(), wrong);
}
