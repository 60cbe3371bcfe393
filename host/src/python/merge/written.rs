//! A component, written with one module in the place of those that become it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent, RoundtripReencoder};
use wasm_encoder::{
    Alias, CanonicalFunctionSection, ComponentAliasSection, ComponentSection, ExportKind, InstanceSection,
    ModuleArg, RawSection,
};
use wasmparser::{CanonicalFunction, ComponentAlias, Payload};

use super::linked::{Found, Linked, Made, Outer, name_of, needs};
use super::module::Kind;

/// Sections of a component.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;
/// What is before the first one.
const PREAMBLE: usize = 8;

/// The component with one module, as far as it is written.
pub(super) struct Written<'a, 'r> {
    linked: &'r Linked<'a>,
    component: &'a [u8],
    pub bytes: Vec<u8>,
    /// New numbers of what is written.
    items: HashMap<Outer, u32>,
    counts: HashMap<Kind, u32>,
    instances: HashMap<usize, u32>,
    modules: HashMap<usize, u32>,
    modules_count: u32,
    instances_count: u32,
    /// What was read of each section that is written item by item.
    modules_read: usize,
    instances_read: usize,
    items_read: HashMap<Kind, u32>,
    /// The instance of the one module, once it is there.
    whole: Option<u32>,
}

impl<'a, 'r> Written<'a, 'r> {
    pub(super) fn new(linked: &'r Linked<'a>, component: &'a [u8]) -> Written<'a, 'r> {
        Written {
            linked,
            component,
            bytes: component[..PREAMBLE].to_vec(),
            items: HashMap::new(),
            counts: HashMap::new(),
            instances: HashMap::new(),
            modules: HashMap::new(),
            modules_count: 0,
            instances_count: 0,
            modules_read: 0,
            instances_read: 0,
            items_read: HashMap::new(),
            whole: None,
        }
    }

    /// Writes what was read as far as it is not within the one module.
    pub(super) fn add(&mut self, payload: &Payload<'a>) -> Result<()> {
        match payload {
            Payload::Version { .. } | Payload::End(_) | Payload::CustomSection(_) => {}
            Payload::ModuleSection { unchecked_range, .. } => self.add_module(unchecked_range.clone()),
            Payload::ComponentSection { unchecked_range, .. } => {
                let data = &self.component[unchecked_range.clone()];
                RawSection { id: COMPONENT, data }.append_to_component(&mut self.bytes);
            }
            Payload::InstanceSection(instances) => {
                for _ in instances.clone() {
                    self.add_instance()?;
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    self.add_alias(alias?)?;
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions.clone() {
                    self.add_function(function?)?;
                }
            }
            payload => {
                let (id, range) = payload.as_section().context("what is no section")?;
                RawSection { id, data: &self.component[range] }.append_to_component(&mut self.bytes);
            }
        }
        Ok(())
    }

    fn add_module(&mut self, range: Range<usize>) {
        if self.linked.modules[self.modules_read].stands_between() {
            let number = self.module(&self.component[range]);
            self.modules.insert(self.modules_read, number);
        }
        self.modules_read += 1;
    }

    fn module(&mut self, data: &[u8]) -> u32 {
        RawSection { id: MODULE, data }.append_to_component(&mut self.bytes);
        self.modules_count += 1;
        self.modules_count - 1
    }

    fn add_instance(&mut self) -> Result<()> {
        let number = self.instances_read;
        self.instances_read += 1;
        let Made::Of(module, args) = &self.linked.instances[number] else { return Ok(()) };
        if !self.linked.modules[*module].stands_between() {
            return Ok(());
        }
        let mut given = Vec::new();
        for (name, arg) in args {
            let Made::Bag(items) = &self.linked.instances[*arg] else { bail!("an instance for {name}") };
            given.push((*name, ModuleArg::Instance(self.bag(items)?)));
        }
        let mut section = InstanceSection::new();
        section.instantiate(self.modules[module], given);
        let written = self.instance(&section);
        self.instances.insert(number, written);
        Ok(())
    }

    fn instance(&mut self, section: &InstanceSection) -> u32 {
        section.append_to_component(&mut self.bytes);
        self.instances_count += 1;
        self.instances_count - 1
    }

    fn bag(&mut self, items: &HashMap<&'a str, Outer>) -> Result<u32> {
        let mut exports = Vec::new();
        for (name, item) in items {
            exports.push((*name, item.0.export(), self.item(*item)?));
        }
        let mut section = InstanceSection::new();
        section.export_items(exports);
        Ok(self.instance(&section))
    }

    fn add_alias(&mut self, alias: ComponentAlias<'a>) -> Result<()> {
        match alias {
            // It is written where it is needed.
            ComponentAlias::CoreInstanceExport { kind, .. } => {
                *self.items_read.entry(Kind::of(kind)?).or_default() += 1;
            }
            alias => {
                let mut section = ComponentAliasSection::new();
                section.alias(RoundtripReencoder.component_alias(alias)?);
                section.append_to_component(&mut self.bytes);
            }
        }
        Ok(())
    }

    fn add_function(&mut self, function: CanonicalFunction) -> Result<()> {
        for needed in needs(&function)? {
            self.item(needed)?;
        }
        let is_core = !matches!(function, CanonicalFunction::Lift { .. });
        let mut section = CanonicalFunctionSection::new();
        Renumber(&self.items).parse_component_canonical(&mut section, function)?;
        section.append_to_component(&mut self.bytes);
        if is_core {
            let read = self.items_read.entry(Kind::Function).or_default();
            let item = (Kind::Function, *read);
            *read += 1;
            self.written(item);
        }
        Ok(())
    }

    /// An item is there by now.
    fn written(&mut self, item: Outer) -> u32 {
        let count = self.counts.entry(item.0).or_default();
        self.items.insert(item, *count);
        *count += 1;
        *count - 1
    }

    /// The new number of an item, which is written if it is not there.
    fn item(&mut self, item: Outer) -> Result<u32> {
        if let Some(number) = self.items.get(&item) {
            return Ok(*number);
        }
        let (instance, name) = match self.linked.find_item(item)? {
            Found::Within(module, item) => (self.whole()?, name_of(module, item)),
            Found::Between(instance, name) => (self.between(instance)?, name.to_owned()),
            Found::Host(function) => {
                let number =
                    *self.items.get(&(item.0, function)).context("a function is needed too early")?;
                self.items.insert(item, number);
                return Ok(number);
            }
        };
        let mut section = ComponentAliasSection::new();
        let kind = item.0.export();
        section.alias(Alias::CoreInstanceExport { instance, kind, name: &name });
        section.append_to_component(&mut self.bytes);
        Ok(self.written(item))
    }

    /// The instance of the one module, which is written if it is not there.
    fn whole(&mut self) -> Result<u32> {
        if let Some(whole) = self.whole {
            return Ok(whole);
        }
        let (module, outside) = self.linked.whole()?;
        let number = self.module(&module);
        let mut imports = Vec::new();
        for (found, import) in outside.iter().zip(0..) {
            imports.push((import.to_string(), ExportKind::Func, self.outside(*found)?));
        }
        let mut section = InstanceSection::new();
        section.export_items(imports.iter().map(|(name, kind, item)| (&name[..], *kind, *item)));
        let bag = self.instance(&section);
        let mut section = InstanceSection::new();
        section.instantiate(number, [("", ModuleArg::Instance(bag))]);
        let whole = self.instance(&section);
        self.whole = Some(whole);
        Ok(whole)
    }

    /// The new number of an instance that stands between.
    fn between(&self, instance: usize) -> Result<u32> {
        self.instances.get(&instance).copied().context("an instance is needed too early")
    }

    /// The number of a function that the one module imports.
    fn outside(&mut self, found: Found<'a>) -> Result<u32> {
        match found {
            Found::Host(function) => {
                let number = self.items.get(&(Kind::Function, function));
                number.copied().context("a function of the host needs the memory before it is there")
            }
            Found::Between(instance, name) => {
                let instance = self.between(instance)?;
                let mut section = ComponentAliasSection::new();
                section.alias(Alias::CoreInstanceExport { instance, kind: ExportKind::Func, name });
                section.append_to_component(&mut self.bytes);
                let count = self.counts.entry(Kind::Function).or_default();
                *count += 1;
                Ok(*count - 1)
            }
            Found::Within(..) => bail!("a part of the module is outside of it"),
        }
    }
}

/// Core items by their new numbers.
struct Renumber<'w>(&'w HashMap<Outer, u32>);

impl Renumber<'_> {
    fn number(&self, kind: Kind, number: u32) -> u32 {
        self.0[&(kind, number)]
    }
}

impl Reencode for Renumber<'_> {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.number(Kind::Function, function))
    }

    fn memory_index(&mut self, memory: u32) -> Result<u32, Error<Infallible>> {
        Ok(self.number(Kind::Memory, memory))
    }
}

impl ReencodeComponent for Renumber<'_> {}
