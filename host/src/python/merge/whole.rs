//! Many core modules, written as one.

use std::collections::HashMap;
use std::convert::Infallible;

use anyhow::Result;
use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection, Encode, EntityType, ExportSection,
    FunctionSection, GlobalSection, ImportSection, Instruction, MemorySection, NameMap, NameSection,
    TableSection, TypeSection,
};
use wasmparser::Operator;

use super::module::{Item, Kind, Module};

/// Where what a module imports is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// In one of the modules.
    Within(usize, Item),
    /// A function of others, by its number among the imports of the whole.
    Outside(u32),
}

/// One module of many.
pub(super) struct Whole<'a, 'b> {
    modules: Vec<&'b Module<'a>>,
    /// Numbers in the whole of what each module imports, by kinds.
    imported: Vec<[Vec<u32>; 4]>,
    /// Where the items begin that each module defines, by kinds; at last, where they all end.
    starts: Vec<[u32; 4]>,
    /// Types of the functions that the whole imports.
    types_of_imports: Vec<u32>,
    /// Where the types of each module begin.
    types: Vec<u32>,
    /// Values of globals that never change.
    constants: HashMap<u32, i32>,
}

impl<'a, 'b> Whole<'a, 'b> {
    /// `place` is where what a module imports is, by its number; the whole imports `imports` functions.
    pub(super) fn new(
        modules: Vec<&'b Module<'a>>,
        imports: u32,
        place: impl Fn(usize, Item) -> Result<Place>,
    ) -> Result<Whole<'a, 'b>> {
        let mut whole = Whole {
            modules: modules.clone(),
            imported: Vec::new(),
            starts: vec![[imports, 0, 0, 0]],
            types_of_imports: vec![0; imports as usize],
            types: vec![0],
            constants: HashMap::new(),
        };
        for module in &modules {
            let last = whole.starts[whole.starts.len() - 1];
            let defined =
                [module.bodies.len(), module.tables.len(), module.memories.len(), module.globals.len()];
            whole.starts.push(std::array::from_fn(|kind| last[kind] + defined[kind] as u32));
            whole.types.push(whole.types[whole.types.len() - 1] + module.types_count()?);
        }
        for (number, module) in modules.iter().enumerate() {
            let mut imported: [Vec<u32>; 4] = Default::default();
            for (kind, imported) in Kind::ALL.into_iter().zip(&mut imported) {
                for import in 0..module.count(kind) {
                    imported.push(match place(number, (kind, import))? {
                        Place::Within(other, item) => whole.defined(other, item),
                        Place::Outside(import) => import,
                    });
                }
            }
            for (ty, import) in module.types_of_imported_functions().zip(&imported[0]) {
                if let Some(type_of_import) = whole.types_of_imports.get_mut(*import as usize) {
                    *type_of_import = whole.types[number] + ty;
                }
            }
            whole.imported.push(imported);
        }
        whole.find_constants()?;
        Ok(whole)
    }

    /// The number in the whole of an item that a module defines.
    fn defined(&self, module: usize, (kind, number): Item) -> u32 {
        let start = self.starts[module][kind as usize];
        start + number - self.modules[module].count(kind)
    }

    /// The number in the whole of any item of a module.
    pub(super) fn number(&self, module: usize, (kind, number): Item) -> u32 {
        let imported = &self.imported[module][kind as usize];
        imported.get(number as usize).copied().unwrap_or_else(|| self.defined(module, (kind, number)))
    }

    fn find_constants(&mut self) -> Result<()> {
        for (module, start) in self.modules.iter().zip(&self.starts) {
            for (global, number) in module.globals.iter().zip(start[Kind::Global as usize]..) {
                let mut operators = global.init_expr.get_operators_reader();
                if !global.ty.mutable
                    && let Operator::I32Const { value } = operators.read()?
                {
                    self.constants.insert(number, value);
                }
            }
        }
        Ok(())
    }

    /// Writes it, with what it exports: items of modules, by names.
    pub(super) fn write(&self, exports: impl Iterator<Item = (String, usize, Item)>) -> Result<Vec<u8>> {
        let mut whole = wasm_encoder::Module::new();
        whole.section(&self.written::<TypeSection>(|renumber, types| {
            renumber
                .module
                .types
                .iter()
                .try_for_each(|section| renumber.parse_type_section(types, section.clone()))
        })?);
        let mut imports = ImportSection::new();
        for (number, ty) in self.types_of_imports.iter().enumerate() {
            imports.import("", &number.to_string(), EntityType::Function(*ty));
        }
        whole.section(&imports);
        whole.section(&self.written::<FunctionSection>(|renumber, functions| {
            for ty in &renumber.module.functions {
                functions.function(renumber.type_index(*ty)?);
            }
            Ok(())
        })?);
        whole.section(&self.written::<TableSection>(|renumber, tables| {
            renumber.module.tables.iter().try_for_each(|table| renumber.parse_table(tables, table.clone()))
        })?);
        whole.section(&self.written::<MemorySection>(|renumber, memories| {
            for memory in &renumber.module.memories {
                memories.memory(renumber.memory_type(*memory)?);
            }
            Ok(())
        })?);
        whole.section(&self.written::<GlobalSection>(|renumber, globals| {
            renumber
                .module
                .globals
                .iter()
                .try_for_each(|global| renumber.parse_global(globals, global.clone()))
        })?);
        let mut exported = ExportSection::new();
        for (name, module, item) in exports {
            exported.export(&name, item.0.export(), self.number(module, item));
        }
        whole.section(&exported);
        self.write_content(&mut whole)?;
        whole.section(&self.names());
        Ok(whole.finish())
    }

    /// What is in tables and memories, and the code.
    fn write_content(&self, whole: &mut wasm_encoder::Module) -> Result<()> {
        whole.section(&self.written::<ElementSection>(|renumber, elements| {
            renumber
                .module
                .elements
                .iter()
                .try_for_each(|it| renumber.parse_element_section(elements, it.clone()))
        })?);
        let data =
            self.modules.iter().filter_map(|module| module.data.as_ref()).map(|data| data.count()).sum();
        if data > 0 {
            whole.section(&DataCountSection { count: data });
        }
        whole.section(&self.written::<CodeSection>(|renumber, code| {
            renumber
                .module
                .bodies
                .iter()
                .try_for_each(|body| renumber.parse_function_body(code, body.clone()))
        })?);
        whole.section(&self.written::<DataSection>(|renumber, segments| {
            renumber
                .module
                .data
                .iter()
                .try_for_each(|data| renumber.parse_data_section(segments, data.clone()))
        })?);
        Ok(())
    }

    /// A section with what each module has of it.
    fn written<S: Default>(
        &self,
        write: impl Fn(&mut Renumber<'_, 'a>, &mut S) -> Result<(), Error<Infallible>>,
    ) -> Result<S> {
        let mut section = S::default();
        let (mut elements, mut data) = (0, 0);
        for (number, module) in self.modules.iter().enumerate() {
            let mut renumber = Renumber { whole: self, number, module, elements, data };
            write(&mut renumber, &mut section)?;
            elements += module.elements.as_ref().map_or(0, |elements| elements.count());
            data += module.data.as_ref().map_or(0, |data| data.count());
        }
        Ok(section)
    }

    /// The names of functions, for backtraces.
    fn names(&self) -> NameSection {
        let mut names = NameMap::new();
        for (number, module) in self.modules.iter().enumerate() {
            for (function, name) in &module.names {
                if *function >= module.count(Kind::Function) {
                    names.append(self.defined(number, (Kind::Function, *function)), name);
                }
            }
        }
        let mut section = NameSection::new();
        section.functions(&names);
        section
    }
}

/// Writes what a module has with the numbers of the whole.
struct Renumber<'w, 'a> {
    whole: &'w Whole<'a, 'w>,
    number: usize,
    module: &'w Module<'a>,
    /// Segments of elements and of data before those of the module.
    elements: u32,
    data: u32,
}

impl Renumber<'_, '_> {
    fn of_kind(&self, kind: Kind, number: u32) -> u32 {
        self.whole.number(self.number, (kind, number))
    }
}

impl Reencode for Renumber<'_, '_> {
    type Error = Infallible;

    fn type_index(&mut self, ty: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.whole.types[self.number] + ty)
    }

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.of_kind(Kind::Function, function))
    }

    fn table_index(&mut self, table: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.of_kind(Kind::Table, table))
    }

    fn memory_index(&mut self, memory: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.of_kind(Kind::Memory, memory))
    }

    fn global_index(&mut self, global: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.of_kind(Kind::Global, global))
    }

    fn element_index(&mut self, element: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.elements + element)
    }

    fn data_index(&mut self, data: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.data + data)
    }

    /// With constants in the place of globals that have them: wasmtime knows a table in advance if its segments
    /// are at constant places.
    fn const_expr(&mut self, expression: wasmparser::ConstExpr<'_>) -> Result<ConstExpr, Error<Infallible>> {
        let mut operators = expression.get_operators_reader();
        let mut bytes = Vec::new();
        while !operators.is_end_then_eof() {
            match self.parse_instruction(&mut operators)? {
                Instruction::GlobalGet(global) if self.whole.constants.contains_key(&global) => {
                    Instruction::I32Const(self.whole.constants[&global]).encode(&mut bytes);
                }
                instruction => instruction.encode(&mut bytes),
            }
        }
        Ok(ConstExpr::raw(bytes))
    }
}
