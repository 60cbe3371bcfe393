//! A component, as it is read: its core modules, and what they have of each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use wasmparser::{CanonicalFunction, CanonicalOption, ComponentAlias, Export, Instance, Parser, Payload};

use super::module::{Item, Kind, Module};
use super::whole::{Place, Whole};

/// An item in a component, by its number there.
pub(super) type Outer = (Kind, u32);

/// A core instance of the component.
pub(super) enum Made<'a> {
    /// Of a module, with other instances by the names under which it imports from them.
    Of(usize, HashMap<&'a str, usize>),
    /// Of items alone.
    Bag(HashMap<&'a str, Outer>),
}

/// What the component says of its core modules.
#[derive(Default)]
pub(super) struct Linked<'a> {
    pub modules: Vec<Module<'a>>,
    pub instances: Vec<Made<'a>>,
    /// Items by their numbers: the instance and the name where an instance has it, nothing for a function of the host.
    items: HashMap<Outer, Option<(usize, &'a str)>>,
    counts: HashMap<Kind, u32>,
    /// What is needed outside of the modules.
    needed: BTreeSet<(usize, &'a str)>,
}

/// Where something is that a module needs, or that is needed of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found<'a> {
    /// In a module that becomes a part of the whole.
    Within(usize, Item),
    /// A function of the host, by its number.
    Host(u32),
    /// A function of an instance that stands between.
    Between(usize, &'a str),
}

/// What is in a component, each with how deep it is nested: 1 for the component itself.
pub(super) fn payloads(component: &[u8]) -> impl Iterator<Item = (Result<Payload<'_>>, u32)> {
    let mut depth = 0;
    Parser::new(0).parse_all(component).map(move |payload| {
        match &payload {
            Ok(Payload::Version { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth -= 1,
            _ => {}
        }
        (payload.map_err(Into::into), depth)
    })
}

impl<'a> Linked<'a> {
    pub(super) fn read(component: &'a [u8]) -> Result<Linked<'a>> {
        let mut linked = Linked::default();
        for (payload, depth) in payloads(component) {
            match payload? {
                Payload::ModuleSection { unchecked_range, .. } if depth == 1 => {
                    linked.modules.push(Module::read(&component[unchecked_range])?);
                }
                Payload::InstanceSection(instances) if depth == 1 => {
                    for instance in instances {
                        linked.instances.push(made(instance?)?);
                    }
                }
                Payload::ComponentAliasSection(aliases) if depth == 1 => {
                    for alias in aliases {
                        if let ComponentAlias::CoreInstanceExport { kind, instance_index, name } = alias? {
                            linked.add(Kind::of(kind)?, Some((instance_index as usize, name)));
                        }
                    }
                }
                Payload::ComponentCanonicalSection(functions) if depth == 1 => {
                    for function in functions {
                        let function = function?;
                        for needed in needs(&function)? {
                            linked.need(needed)?;
                        }
                        if !matches!(function, CanonicalFunction::Lift { .. }) {
                            linked.add(Kind::Function, None);
                        }
                    }
                }
                _ => {}
            }
        }
        let mut made = BTreeSet::new();
        for instance in &linked.instances {
            if let Made::Of(module, _) = instance {
                ensure!(made.insert(*module), "a module has two instances");
            }
        }
        ensure!(made.len() == linked.modules.len(), "a module has no instance");
        let between: Vec<_> =
            linked.instances.iter().filter_map(|made| linked.args_between(made)).flatten().collect();
        between.into_iter().try_for_each(|item| linked.need(item))?;
        Ok(linked)
    }

    fn add(&mut self, kind: Kind, item: Option<(usize, &'a str)>) {
        let count = self.counts.entry(kind).or_default();
        self.items.insert((kind, *count), item);
        *count += 1;
    }

    fn need(&mut self, item: Outer) -> Result<()> {
        let item = self.items.get(&item).context("an item that is not there")?;
        self.needed.extend(*item);
        Ok(())
    }

    /// What an instance that stands between imports.
    fn args_between(&self, made: &Made<'a>) -> Option<Vec<Outer>> {
        let Made::Of(module, args) = made else { return None };
        let bags = args.values().filter_map(|arg| match &self.instances[*arg] {
            Made::Bag(items) => Some(items.values().copied()),
            Made::Of(..) => None,
        });
        self.modules[*module].stands_between().then(|| bags.flatten().collect())
    }

    /// Finds what an instance has under a name.
    fn find(&self, instance: usize, name: &'a str) -> Result<Found<'a>> {
        match &self.instances[instance] {
            Made::Bag(items) => self.find_item(*items.get(name).with_context(|| format!("no {name}"))?),
            Made::Of(module, _) if self.modules[*module].stands_between() => {
                Ok(Found::Between(instance, name))
            }
            Made::Of(module, _) => {
                let item = self.modules[*module].export(name).with_context(|| format!("no {name}"))?;
                self.find_in(*module, item)
            }
        }
    }

    /// Finds what is this item of a module: its own, or what it imports.
    fn find_in(&self, module: usize, item: Item) -> Result<Found<'a>> {
        let Some((from, name)) = self.modules[module].import(item) else {
            return Ok(Found::Within(module, item));
        };
        let args = self.instances.iter().find_map(|made| match made {
            Made::Of(made_of, args) if *made_of == module => Some(args),
            _ => None,
        });
        let instance = args.and_then(|args| args.get(from)).with_context(|| format!("nothing for {from}"))?;
        self.find(*instance, name)
    }

    pub(super) fn find_item(&self, item: Outer) -> Result<Found<'a>> {
        match self.items.get(&item).context("an item that is not there")? {
            Some((instance, name)) => self.find(*instance, name),
            None => Ok(Found::Host(item.1)),
        }
    }
}

fn made<'a>(instance: Instance<'a>) -> Result<Made<'a>> {
    Ok(match instance {
        Instance::Instantiate { module_index, args } => {
            Made::Of(module_index as usize, args.iter().map(|arg| (arg.name, arg.index as usize)).collect())
        }
        Instance::FromExports(items) => {
            let named = |item: &Export<'a>| Ok((item.name, (Kind::of(item.kind)?, item.index)));
            Made::Bag(items.iter().map(named).collect::<Result<_>>()?)
        }
    })
}

/// The core items with which a function of the host is made, or one for the host.
pub(super) fn needs(function: &CanonicalFunction) -> Result<Vec<Outer>> {
    let (mut needs, options) = match function {
        CanonicalFunction::Lift { core_func_index, options, .. } => {
            (vec![(Kind::Function, *core_func_index)], &options[..])
        }
        CanonicalFunction::Lower { options, .. } => (Vec::new(), &options[..]),
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => (Vec::new(), &[][..]),
        _ => bail!("a function of WASI 0.3"),
    };
    for option in options {
        match option {
            CanonicalOption::Memory(memory) => needs.push((Kind::Memory, *memory)),
            CanonicalOption::Realloc(function) | CanonicalOption::PostReturn(function) => {
                needs.push((Kind::Function, *function));
            }
            CanonicalOption::UTF8 | CanonicalOption::UTF16 | CanonicalOption::CompactUTF16 => {}
            _ => bail!("a function of WASI 0.3"),
        }
    }
    Ok(needs)
}

impl<'a> Linked<'a> {
    /// The one module, with what it imports.
    pub(super) fn whole(&self) -> Result<(Vec<u8>, Vec<Found<'a>>)> {
        let within: Vec<usize> =
            (0..self.modules.len()).filter(|module| !self.modules[*module].stands_between()).collect();
        let mut outside = Vec::new();
        for module in &within {
            for function in 0..self.modules[*module].count(Kind::Function) {
                let found = self.find_in(*module, (Kind::Function, function))?;
                if !matches!(found, Found::Within(..)) && !outside.contains(&found) {
                    outside.push(found);
                }
            }
        }
        let modules: Vec<&Module<'_>> = within.iter().map(|module| &self.modules[*module]).collect();
        let number =
            |module: usize| within.iter().position(|known| *known == module).context("another module");
        let place = |module: usize, item: Item| match self.find_in(within[module], item)? {
            Found::Within(module, item) => Ok(Place::Within(number(module)?, item)),
            found if item.0 == Kind::Function => Ok(Place::Outside(
                outside.iter().position(|known| *known == found).context("is known")? as u32,
            )),
            _ => bail!("more than functions of others is imported"),
        };
        let mut exports = BTreeMap::new();
        for (instance, name) in &self.needed {
            if let Found::Within(module, item) = self.find(*instance, name)? {
                exports.insert(name_of(module, item), (number(module)?, item));
            }
        }
        let whole = Whole::new(modules, outside.len() as u32, place)?;
        Ok((whole.write(exports.into_iter().map(|(name, (module, item))| (name, module, item)))?, outside))
    }
}

pub(super) fn name_of(module: usize, (kind, number): Item) -> String {
    format!("{module} {kind:?} {number}")
}
