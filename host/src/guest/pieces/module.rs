//! A core module, and what is made of it: its long instructions are calls of functions that
//! are added to it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{Encode, FuncType, HeapType, Instruction, RefType, ValType};
use wasmparser::{
    BinaryReader, BinaryReaderError, CodeSectionReader, CompositeInnerType, Encoding, FunctionBody,
    MemoryType, Parser, Payload, StorageType, TableType, TypeRef,
};

use super::function::function;
use super::work::{Sizes, Work, works};

const BRANCH_HINTS: &str = "metadata.code.branch_hint";

/// A core module of the guest.
#[derive(Default)]
pub(super) struct Module {
    pub range: Range<usize>,
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

pub(super) fn modules(sizes: Sizes, guest: &[u8]) -> Result<Vec<Module>, BinaryReaderError> {
    let mut modules = Vec::new();
    let mut current = Module::default();
    for payload in Parser::new(0).parse_all(guest) {
        match payload? {
            Payload::Version { encoding: Encoding::Module, range, .. } => {
                current = Module { range, ..Module::default() };
            }
            // Of a module, since a component's own range is empty or behind us.
            Payload::End(offset) if current.range.start != current.range.end => {
                current.range.end = offset;
                modules.push(std::mem::take(&mut current));
            }
            payload => current.read(sizes, payload)?,
        }
    }
    Ok(modules)
}

impl Module {
    fn read(&mut self, sizes: Sizes, payload: Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::TypeSection(types) => {
                for group in types {
                    let content = |inner: &CompositeInnerType| match inner {
                        CompositeInnerType::Array(array) => Some(array.0.element_type),
                        _ => None,
                    };
                    self.types.extend(group?.types().map(|it| content(&it.composite_type.inner)));
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    match import?.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => self.functions += 1,
                        TypeRef::Memory(memory) => self.memories.push(memory),
                        TypeRef::Table(table) => self.tables.push(table),
                        TypeRef::Global(_) | TypeRef::Tag(_) => {}
                    }
                }
            }
            Payload::FunctionSection(functions) => self.functions += functions.count(),
            Payload::TableSection(tables) => {
                for table in tables {
                    self.tables.push(table?.ty);
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    self.memories.push(memory?);
                }
            }
            Payload::CodeSectionEntry(body) => {
                works(sizes, &body, |work, _| {
                    if !self.numbers.contains_key(&work) && self.params(work).is_some() {
                        self.numbers.insert(work, self.works.len() as u32);
                        self.works.push(work);
                    }
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn has_work(&self) -> bool {
        !self.works.is_empty()
    }

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

    pub(super) fn section<'a>(
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
