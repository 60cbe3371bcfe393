//! What the server does not have of what a guest imports: that is asked of the linker that
//! serving uses.

use wasm_encoder::{
    ComponentImportSection, ComponentTypeRef, ComponentTypeSection, InstanceType, TypeBounds,
};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType};
use wasmtime::{Caller, ExternType, ImportType, Module, UnknownImportError, Val};

use super::advice::advice;
use crate::contract::{GATEWAY, TIMERS, TIMERS_MODULE};

/// So many missing imports are looked for: the linker begins anew for each, and a guest may
/// have thousands.
const MISSING_MAX: usize = 50;

/// An import that the server does not have as the guest wants it.
pub(crate) struct Missing {
    pub import: String,
    /// What of it.
    pub what: String,
}

/// The imports of `component` for which `linker` has nothing that fits.
pub(crate) fn missing<T: Send>(linker: &Linker<T>, component: &Component) -> Vec<Missing> {
    let (engine, ty) = (component.engine(), component.component_type());
    let mut completed = linker.clone();
    completed.allow_shadowing(true);
    let mut missing: Vec<Missing> = Vec::new();
    // The linker names the first import that it cannot provide; with something that fits
    // in its place, the next.
    while let Err(error) = completed.instantiate_pre(component) {
        let message = error.to_string();
        let mut earlier = Vec::new();
        let named = ty.imports(engine).find(|(name, import)| {
            let is_named = message.contains(&format!("`{name}`"));
            if !is_named {
                resources(&import.ty, component, &mut earlier);
            }
            is_named
        });
        let Some((name, import)) = named else { break };
        if missing.iter().any(|known| known.import == name) {
            break;
        }
        missing.push(Missing { import: name.to_owned(), what: what(&error) });
        let stand_in = StandIn { linker, component, earlier };
        if missing.len() == MISSING_MAX
            || stand_in.define(&mut completed.root(), None, name, &import.ty).is_err()
        {
            break;
        }
    }
    missing
}

/// The imports of a core module for which `linker` has nothing that fits.
pub(crate) fn missing_of_module<T: 'static>(linker: &wasmtime::Linker<T>, module: &Module) -> Vec<Missing> {
    let mut completed = linker.clone();
    let mut missing = Vec::new();
    // As above.
    while let Err(error) = completed.instantiate_pre(module) {
        let Some(unknown) = error.downcast_ref::<UnknownImportError>() else {
            let named = |import: &ImportType<'_>| {
                error.to_string().contains(&format!("`{}::{}`", import.module(), import.name()))
            };
            let Some(import) = module.imports().find(named) else { break };
            let what = format!("is of another type: {}", error.root_cause());
            missing.push(Missing { import: format!("{} {}", import.module(), import.name()), what });
            break;
        };
        missing.push(Missing {
            import: format!("{} {}", unknown.module(), unknown.name()),
            what: "is not there".to_owned(),
        });
        let ExternType::Func(ty) = unknown.ty() else { break };
        if missing.len() == MISSING_MAX {
            break;
        }
        let trap = |_: Caller<'_, T>, _: &[Val], _: &mut [Val]| Ok(());
        if completed.func_new(unknown.module(), unknown.name(), ty, trap).is_err() {
            break;
        }
    }
    missing
}

/// There may be more than those.
pub(crate) fn is_cut(missing: &[Missing]) -> bool {
    missing.len() == MISSING_MAX
}

/// Why a guest cannot be linked, if something is missing.
pub(crate) fn refusal(missing: &[Missing]) -> Option<String> {
    if missing.is_empty() {
        return None;
    }
    let each: Vec<String> = missing
        .iter()
        .map(|Missing { import, what }| format!("`{import}` ({what}; {})", advice(import)))
        .collect();
    let more = if is_cut(missing) { ", and perhaps more" } else { "" };
    Some(format!(
        "needs what this server does not offer: {}{more}. It offers components WASI 0.2 and 0.3 with wasi:http, wasi:keyvalue, wasi:config, `{}` and `{}`, and core modules WASI 0.1 (`wasi_snapshot_preview1`) and `{}`",
        each.join(", "),
        TIMERS,
        GATEWAY,
        TIMERS_MODULE
    ))
}

/// What the linker says about the import that it cannot provide.
fn what(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let within = |cause: &String| {
        let item = cause.strip_prefix("instance export ")?.strip_suffix(" has the wrong type")?;
        Some(item.to_owned())
    };
    let item = causes.iter().rev().find_map(within);
    let last = causes.last().map_or("", String::as_str);
    match (item, last.ends_with("implementation is missing")) {
        (Some(item), true) => format!("{item} is not there"),
        (None, true) => "is not there".to_owned(),
        (Some(item), false) => format!("{item} is of another type: {last}"),
        (None, false) => format!("is of another type: {last}"),
    }
}

/// Something that fits an import, in the place of what the server does not have.
struct StandIn<'a, T: 'static> {
    linker: &'a Linker<T>,
    component: &'a Component,
    /// The resources of the imports before it.
    earlier: Vec<ResourceType>,
}

/// The host's side of resources that the server does not have.
struct Nothing;

impl<T: Send> StandIn<'_, T> {
    fn define(
        &self,
        place: &mut LinkerInstance<'_, T>,
        interface: Option<&str>,
        name: &str,
        item: &ComponentItem,
    ) -> wasmtime::Result<()> {
        match item {
            ComponentItem::ComponentFunc(function) if function.async_() => {
                place.func_new_concurrent(name, |_, _, _, _| Box::pin(async { Ok(()) }))
            }
            ComponentItem::ComponentFunc(_) => place.func_new(name, |_, _, _, _| Ok(())),
            ComponentItem::ComponentInstance(instance) => {
                let mut inner = place.instance(name)?;
                for (export, item) in instance.exports(self.component.engine()) {
                    self.define(&mut inner, Some(name), export, &item.ty)?;
                }
                Ok(())
            }
            ComponentItem::Resource(resource) if self.earlier.contains(resource) => Ok(()),
            // The server's own, if it has it: further imports may be about it.
            ComponentItem::Resource(_) => {
                let offered = interface.and_then(|interface| self.offered(interface, name));
                let resource = offered.unwrap_or_else(ResourceType::host::<Nothing>);
                place.resource(name, resource, |_, _| Ok(()))
            }
            _ => Ok(()),
        }
    }

    /// The server's own resource, asked for by a component that imports nothing else.
    fn offered(&self, interface: &str, resource: &str) -> Option<ResourceType> {
        let mut instance = InstanceType::new();
        instance.export(resource, ComponentTypeRef::Type(TypeBounds::SubResource));
        let (mut types, mut imports) = (ComponentTypeSection::new(), ComponentImportSection::new());
        types.instance(&instance);
        imports.import(interface, ComponentTypeRef::Instance(0));
        let mut asking = wasm_encoder::Component::new();
        asking.section(&types).section(&imports);
        let engine = self.component.engine();
        let asking = Component::new(engine, asking.finish()).ok()?;
        let answer = self.linker.substituted_component_type(&asking).ok()?;
        let ComponentItem::ComponentInstance(answer) = answer.get_import(engine, interface)?.ty else {
            return None;
        };
        match answer.get_export(engine, resource)?.ty {
            ComponentItem::Resource(resource) => Some(resource),
            _ => None,
        }
    }
}

/// Adds the resources of an import to those that were found.
fn resources(item: &ComponentItem, component: &Component, found: &mut Vec<ResourceType>) {
    match item {
        ComponentItem::Resource(resource) => found.push(*resource),
        ComponentItem::ComponentInstance(instance) => {
            for (_, export) in instance.exports(component.engine()) {
                resources(&export.ty, component, found);
            }
        }
        _ => {}
    }
}
