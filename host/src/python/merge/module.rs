//! A core module, as it is read.

use std::collections::HashMap;

use anyhow::{Result, bail};
use wasm_encoder::ExportKind;
use wasmparser::{
    DataSectionReader, ElementSectionReader, ExternalKind, FunctionBody, Global, KnownCustom, MemoryType,
    Name, Parser, Payload, Table, TypeRef, TypeSectionReader,
};

/// What modules have of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Function,
    Table,
    Memory,
    Global,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Function, Kind::Table, Kind::Memory, Kind::Global];

    pub(super) fn of(kind: ExternalKind) -> Result<Kind> {
        Ok(match kind {
            ExternalKind::Func | ExternalKind::FuncExact => Kind::Function,
            ExternalKind::Table => Kind::Table,
            ExternalKind::Memory => Kind::Memory,
            ExternalKind::Global => Kind::Global,
            ExternalKind::Tag => bail!("exceptions"),
        })
    }

    pub(super) fn export(self) -> ExportKind {
        match self {
            Kind::Function => ExportKind::Func,
            Kind::Table => ExportKind::Table,
            Kind::Memory => ExportKind::Memory,
            Kind::Global => ExportKind::Global,
        }
    }
}

/// An item of a module, by its number in that module.
pub(super) type Item = (Kind, u32);

/// A module, as it is read.
#[derive(Default)]
pub(super) struct Module<'a> {
    pub(super) types: Vec<TypeSectionReader<'a>>,
    pub(super) imports: Vec<(&'a str, &'a str, TypeRef)>,
    pub(super) functions: Vec<u32>,
    pub(super) tables: Vec<Table<'a>>,
    pub(super) memories: Vec<MemoryType>,
    pub(super) globals: Vec<Global<'a>>,
    exports: HashMap<&'a str, Item>,
    pub(super) elements: Option<ElementSectionReader<'a>>,
    pub(super) bodies: Vec<FunctionBody<'a>>,
    pub(super) data: Option<DataSectionReader<'a>>,
    pub(super) names: Vec<(u32, &'a str)>,
}

impl<'a> Module<'a> {
    pub(super) fn read(module: &'a [u8]) -> Result<Module<'a>> {
        let mut read = Module::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(types) => read.types.push(types),
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import?;
                        read.imports.push((import.module, import.name, import.ty));
                    }
                }
                Payload::FunctionSection(functions) => {
                    read.functions = functions.into_iter().collect::<Result<_, _>>()?
                }
                Payload::TableSection(tables) => {
                    read.tables = tables.into_iter().collect::<Result<_, _>>()?
                }
                Payload::MemorySection(memories) => {
                    read.memories = memories.into_iter().collect::<Result<_, _>>()?
                }
                Payload::GlobalSection(globals) => {
                    read.globals = globals.into_iter().collect::<Result<_, _>>()?
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export?;
                        read.exports.insert(export.name, (Kind::of(export.kind)?, export.index));
                    }
                }
                Payload::ElementSection(elements) => read.elements = Some(elements),
                Payload::CodeSectionEntry(body) => read.bodies.push(body),
                Payload::DataSection(data) => read.data = Some(data),
                Payload::StartSection { .. } => bail!("a module begins with a function of its own"),
                Payload::TagSection(_) => bail!("a module has exceptions"),
                Payload::CustomSection(section) => {
                    if let KnownCustom::Name(names) = section.as_known() {
                        for names in names {
                            let Ok(Name::Function(names)) = names else { continue };
                            read.names.extend(
                                names.into_iter().map_while(Result::ok).map(|it| (it.index, it.name)),
                            );
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(read)
    }

    pub(super) fn export(&self, name: &str) -> Option<Item> {
        self.exports.get(name).copied()
    }

    /// What it imports as this item, if it does: the module and the name.
    pub(super) fn import(&self, (kind, number): Item) -> Option<(&'a str, &'a str)> {
        let of_kind = self.imports.iter().filter(|(_, _, ty)| is_of(*ty, kind));
        of_kind.map(|(module, name, _)| (*module, *name)).nth(number as usize)
    }

    /// Whether it only stands between others: functions that call what a table has, or what is
    /// put into that table.
    pub(super) fn stands_between(&self) -> bool {
        self.bodies.is_empty() && self.memories.is_empty() && self.globals.is_empty()
            || (!self.tables.is_empty() && self.memories.is_empty())
    }

    /// The types that it defines are so many.
    pub(super) fn types_count(&self) -> Result<u32> {
        let mut count = 0;
        for section in &self.types {
            for group in section.clone() {
                count += group?.types().len() as u32;
            }
        }
        Ok(count)
    }

    /// The types of the functions that it imports.
    pub(super) fn types_of_imported_functions(&self) -> impl Iterator<Item = u32> {
        self.imports.iter().filter_map(|(_, _, ty)| match ty {
            TypeRef::Func(ty) => Some(*ty),
            _ => None,
        })
    }

    /// How many of a kind it imports.
    pub(super) fn count(&self, kind: Kind) -> u32 {
        self.imports.iter().filter(|(_, _, ty)| is_of(*ty, kind)).count() as u32
    }
}

fn is_of(ty: TypeRef, kind: Kind) -> bool {
    match ty {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => kind == Kind::Function,
        TypeRef::Table(_) => kind == Kind::Table,
        TypeRef::Memory(_) => kind == Kind::Memory,
        TypeRef::Global(_) => kind == Kind::Global,
        TypeRef::Tag(_) => false,
    }
}
