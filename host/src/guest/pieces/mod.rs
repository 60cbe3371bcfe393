//! Instructions that work on much at once, in pieces.
//!
//! One `memory.fill` may write all memory that a guest has, and neither a deadline nor
//! another call gets a turn before it ends. So each instruction of this kind is replaced
//! by a call of a function, added at the end of the module, that does the same in a
//! loop: there the guest can be interrupted. What is seen from inside stays the same; an
//! instruction that traps does so before it has written anything.

mod function;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{Encode, FuncType, HeapType, Instruction, InstructionSink, RefType, ValType};
use wasmparser::{
    BinaryReader, BinaryReaderError, CodeSectionReader, CompositeInnerType, Encoding, FunctionBody,
    MemoryType, Operator, Parser, Payload, StorageType, TableType, TypeRef,
};

use self::function::function;
use crate::guest::rewrite;

/// Changes with what is made of a guest.
pub const VERSION: u32 = 2;

/// How much is done without a break: bytes of memory, and elements of tables and arrays.
#[derive(Clone, Copy)]
struct Sizes {
    bytes: u32,
    elements: u32,
}

/// About a tenth of a millisecond, or some tenths in memory that is used for the first time.
const SIZES: Sizes = Sizes { bytes: 1 << 20, elements: 1 << 14 };

const BRANCH_HINTS: &str = "metadata.code.branch_hint";

/// A component or a module that does the same as this one, in pieces.
pub fn in_pieces(guest: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    in_pieces_of(SIZES, guest)
}

fn in_pieces_of(sizes: Sizes, guest: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    let modules = modules(sizes, guest)?;
    rewrite::sections(guest, |payload, content| {
        let Some((_, range)) = payload.as_section() else { return Ok(Some(content.into())) };
        let before = modules.partition_point(|module| module.range.end <= range.start);
        // None if it is a component's own.
        match modules.get(before).filter(|module| module.range.contains(&range.start)) {
            Some(module) if !module.works.is_empty() => module.section(sizes, payload, content),
            _ => Ok(Some(content.into())),
        }
    })
}

/// An instruction of this kind, with where it works.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    Fill {
        memory: u32,
    },
    Copy {
        to: u32,
        from: u32,
    },
    Init {
        memory: u32,
        data: u32,
    },
    TableFill {
        table: u32,
    },
    TableCopy {
        to: u32,
        from: u32,
    },
    TableInit {
        table: u32,
        elements: u32,
    },
    /// Arrays are named by their types.
    ArrayFill {
        array: u32,
    },
    ArrayCopy {
        to: u32,
        from: u32,
    },
    ArrayInitData {
        array: u32,
        data: u32,
    },
    ArrayInitElements {
        array: u32,
        elements: u32,
    },
}

impl Work {
    fn of(operator: &Operator<'_>) -> Option<Work> {
        Some(match *operator {
            Operator::MemoryFill { mem } => Work::Fill { memory: mem },
            Operator::MemoryCopy { dst_mem, src_mem } => Work::Copy { to: dst_mem, from: src_mem },
            Operator::MemoryInit { data_index, mem } => Work::Init { memory: mem, data: data_index },
            Operator::TableFill { table } => Work::TableFill { table },
            Operator::TableCopy { dst_table, src_table } => {
                Work::TableCopy { to: dst_table, from: src_table }
            }
            Operator::TableInit { elem_index, table } => Work::TableInit { table, elements: elem_index },
            Operator::ArrayFill { array_type_index } => Work::ArrayFill { array: array_type_index },
            Operator::ArrayCopy { array_type_index_dst, array_type_index_src } => {
                Work::ArrayCopy { to: array_type_index_dst, from: array_type_index_src }
            }
            Operator::ArrayInitData { array_type_index, array_data_index } => {
                Work::ArrayInitData { array: array_type_index, data: array_data_index }
            }
            Operator::ArrayInitElem { array_type_index, array_elem_index } => {
                Work::ArrayInitElements { array: array_type_index, elements: array_elem_index }
            }
            _ => return None,
        })
    }

    fn write(self, sink: &mut InstructionSink<'_>) {
        match self {
            Work::Fill { memory } => sink.memory_fill(memory),
            Work::Copy { to, from } => sink.memory_copy(to, from),
            Work::Init { memory, data } => sink.memory_init(memory, data),
            Work::TableFill { table } => sink.table_fill(table),
            Work::TableCopy { to, from } => sink.table_copy(to, from),
            Work::TableInit { table, elements } => sink.table_init(table, elements),
            Work::ArrayFill { array } => sink.array_fill(array),
            Work::ArrayCopy { to, from } => sink.array_copy(to, from),
            Work::ArrayInitData { array, data } => sink.array_init_data(array, data),
            Work::ArrayInitElements { array, elements } => sink.array_init_elem(array, elements),
        };
    }

    /// How much is one piece.
    fn piece(self, sizes: Sizes) -> u32 {
        match self {
            Work::Fill { .. } | Work::Copy { .. } | Work::Init { .. } => sizes.bytes,
            _ => sizes.elements,
        }
    }

    /// Which operands are places: the one that is written to, and the one that is read from.
    fn places(self) -> &'static [u32] {
        match self {
            Work::Fill { .. } | Work::TableFill { .. } => &[0],
            Work::Copy { .. } | Work::Init { .. } | Work::TableCopy { .. } | Work::TableInit { .. } => {
                &[0, 1]
            }
            // Those before them are arrays.
            Work::ArrayFill { .. } => &[1],
            Work::ArrayCopy { .. } => &[1, 3],
            Work::ArrayInitData { .. } | Work::ArrayInitElements { .. } => &[1, 2],
        }
    }

    /// What is read and what is written can be the same.
    fn may_overlap(self) -> bool {
        match self {
            Work::Copy { to, from } | Work::TableCopy { to, from } => to == from,
            Work::ArrayCopy { .. } => true,
            _ => false,
        }
    }
}

/// A core module of the guest.
#[derive(Default)]
struct Module {
    range: Range<usize>,
    /// What each type's arrays have in them, if it is an array's.
    types: Vec<Option<StorageType>>,
    /// Imported ones first.
    functions: u32,
    memories: Vec<MemoryType>,
    tables: Vec<TableType>,
    /// For each of them one function is added.
    works: Vec<Work>,
    /// Where they are in `works`.
    numbers: HashMap<Work, u32>,
}

fn modules(sizes: Sizes, guest: &[u8]) -> Result<Vec<Module>, BinaryReaderError> {
    let mut modules = Vec::new();
    let mut current = Module::default();
    for payload in Parser::new(0).parse_all(guest) {
        match payload? {
            Payload::Version { encoding: Encoding::Module, range, .. } => {
                current = Module { range, ..Module::default() };
            }
            Payload::TypeSection(types) => {
                for group in types {
                    let content = |inner: &CompositeInnerType| match inner {
                        CompositeInnerType::Array(array) => Some(array.0.element_type),
                        _ => None,
                    };
                    current.types.extend(group?.types().map(|it| content(&it.composite_type.inner)));
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    match import?.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => current.functions += 1,
                        TypeRef::Memory(memory) => current.memories.push(memory),
                        TypeRef::Table(table) => current.tables.push(table),
                        TypeRef::Global(_) | TypeRef::Tag(_) => {}
                    }
                }
            }
            Payload::FunctionSection(functions) => current.functions += functions.count(),
            Payload::TableSection(tables) => {
                for table in tables {
                    current.tables.push(table?.ty);
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    current.memories.push(memory?);
                }
            }
            Payload::CodeSectionEntry(body) => {
                works(sizes, &body, |work, _| {
                    if !current.numbers.contains_key(&work) && current.params(work).is_some() {
                        current.numbers.insert(work, current.works.len() as u32);
                        current.works.push(work);
                    }
                })?;
            }
            // Of a module, since a component's own range is empty or behind us.
            Payload::End(offset) if current.range.start != current.range.end => {
                current.range.end = offset;
                modules.push(std::mem::take(&mut current));
            }
            _ => {}
        }
    }
    Ok(modules)
}

/// Calls `found` for each instruction of this kind with its place; not for those that
/// are known to be small, which are faster as they are.
fn works(
    sizes: Sizes,
    body: &FunctionBody<'_>,
    mut found: impl FnMut(Work, Range<usize>),
) -> Result<(), BinaryReaderError> {
    let mut operators = body.get_operators_reader()?;
    // That the last operator has put on the stack.
    let mut constant = None;
    while !operators.eof() {
        let start = operators.original_position();
        let operator = operators.read()?;
        if let Some(work) = Work::of(&operator)
            && constant.is_none_or(|count| count > u64::from(work.piece(sizes)))
        {
            found(work, start..operators.original_position());
        }
        constant = match operator {
            Operator::I32Const { value } => Some(u64::from(value as u32)),
            Operator::I64Const { value } => Some(value as u64),
            _ => None,
        };
    }
    Ok(())
}

impl Module {
    /// The types of what the instruction takes: arrays, places or a value, and how many. None
    /// if there is no such memory, table or array, which is for the compiler to say.
    fn params(&self, work: Work) -> Option<Vec<ValType>> {
        let memory = |number: u32| Some(address(self.memories.get(number as usize)?.memory64));
        let table = |number: u32| Some(address(self.tables.get(number as usize)?.table64));
        let copy = |to, from| vec![to, from, if to == from { to } else { ValType::I32 }];
        let array = |number: u32| {
            self.content(number)?;
            Some(ValType::Ref(RefType { nullable: true, heap_type: HeapType::Concrete(number) }))
        };
        Some(match work {
            Work::Fill { memory: it } => vec![memory(it)?, ValType::I32, memory(it)?],
            Work::Copy { to, from } => copy(memory(to)?, memory(from)?),
            Work::Init { memory: it, .. } => vec![memory(it)?, ValType::I32, ValType::I32],
            Work::TableFill { table: it } => {
                let element = self.tables.get(it as usize)?.element_type;
                let element = RoundtripReencoder.ref_type(element).ok()?;
                vec![table(it)?, ValType::Ref(element), table(it)?]
            }
            Work::TableCopy { to, from } => copy(table(to)?, table(from)?),
            Work::TableInit { table: it, .. } => vec![table(it)?, ValType::I32, ValType::I32],
            Work::ArrayFill { array: it } => {
                let value = match self.content(it)? {
                    StorageType::I8 | StorageType::I16 => ValType::I32,
                    StorageType::Val(value) => RoundtripReencoder.val_type(value).ok()?,
                };
                vec![array(it)?, ValType::I32, value, ValType::I32]
            }
            Work::ArrayCopy { to, from } => {
                vec![array(to)?, ValType::I32, array(from)?, ValType::I32, ValType::I32]
            }
            Work::ArrayInitData { array: it, .. } | Work::ArrayInitElements { array: it, .. } => {
                vec![array(it)?, ValType::I32, ValType::I32, ValType::I32]
            }
        })
    }

    /// None if that is no type of arrays.
    fn content(&self, array: u32) -> Option<StorageType> {
        *self.types.get(array as usize)?
    }

    /// How far the place that is read from moves with each element.
    fn step(&self, work: Work) -> u32 {
        match work {
            Work::ArrayInitData { array, .. } => self.content(array).map_or(1, bytes_of),
            _ => 1,
        }
    }

    fn section<'a>(
        &self,
        sizes: Sizes,
        payload: &Payload<'a>,
        content: &'a [u8],
    ) -> Result<Option<Cow<'a, [u8]>>, BinaryReaderError> {
        Ok(match payload {
            Payload::TypeSection(_) => {
                let params = self.works.iter().filter_map(|work| self.params(*work));
                Some(longer(content, params.map(|params| FunctionType(FuncType::new(params, []))))?.into())
            }
            Payload::FunctionSection(_) => {
                let before = self.types.len() as u32;
                Some(longer(content, (before..).take(self.works.len()))?.into())
            }
            Payload::CodeSectionStart { .. } => Some(self.code(sizes, content)?.into()),
            // The places in functions that it names are others now.
            Payload::CustomSection(custom) if custom.name() == BRANCH_HINTS => None,
            _ => Some(content.into()),
        })
    }

    fn code(&self, sizes: Sizes, content: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
        let bodies = CodeSectionReader::new(BinaryReader::new(content, 0))?;
        let mut new = Vec::with_capacity(content.len() + content.len() / 16);
        (bodies.count() + self.works.len() as u32).encode(&mut new);
        for body in bodies {
            self.body(sizes, content, &body?)?.encode(&mut new);
        }
        for work in &self.works {
            let Some(params) = self.params(*work) else { continue };
            function(*work, work.piece(sizes), &params, self.step(*work)).encode(&mut new);
        }
        Ok(new)
    }

    /// The body with calls in the place of its instructions.
    fn body(&self, sizes: Sizes, code: &[u8], body: &FunctionBody<'_>) -> Result<Vec<u8>, BinaryReaderError> {
        let mut new = Vec::new();
        let mut done = body.range().start;
        works(sizes, body, |work, place| {
            let Some(number) = self.numbers.get(&work) else { return };
            new.extend_from_slice(&code[done..place.start]);
            Instruction::Call(self.functions + number).encode(&mut new);
            done = place.end;
        })?;
        new.extend_from_slice(&code[done..body.range().end]);
        Ok(new)
    }
}

fn address(is_64: bool) -> ValType {
    if is_64 { ValType::I64 } else { ValType::I32 }
}

/// As they are in a data segment.
fn bytes_of(content: StorageType) -> u32 {
    match content {
        StorageType::I8 => 1,
        StorageType::I16 => 2,
        StorageType::Val(wasmparser::ValType::I64 | wasmparser::ValType::F64) => 8,
        StorageType::Val(wasmparser::ValType::V128) => 16,
        // References cannot be in one, which is for the compiler to say.
        StorageType::Val(_) => 4,
    }
}

struct FunctionType(FuncType);

impl Encode for FunctionType {
    fn encode(&self, sink: &mut Vec<u8>) {
        const FUNCTION: u8 = 0x60;
        sink.push(FUNCTION);
        self.0.params().encode(sink);
        self.0.results().encode(sink);
    }
}

/// The content of a section with more in it, at the end.
fn longer(content: &[u8], more: impl IntoIterator<Item = impl Encode>) -> Result<Vec<u8>, BinaryReaderError> {
    let mut reader = BinaryReader::new(content, 0);
    let mut count = reader.read_var_u32()?;
    let before = &content[reader.original_position()..];
    let mut added = Vec::new();
    for item in more {
        item.encode(&mut added);
        count += 1;
    }
    let mut new = Vec::with_capacity(content.len() + added.len() + 5);
    count.encode(&mut new);
    new.extend_from_slice(before);
    new.extend(added);
    Ok(new)
}

#[cfg(test)]
mod tests {
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
        let functions: Vec<_> =
            instance.exports(&mut store).filter_map(|export| export.into_func()).collect();
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
        let wrong = wat::parse_str(
            "(module (func (memory.fill 3 (i32.const 0) (i32.const 0) (i32.const 0x200000))))",
        );
        let wrong = wrong.unwrap();
        assert_eq!(in_pieces(&wrong).unwrap(), wrong);
    }
}
