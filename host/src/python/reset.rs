//! The C library of an interpreter opens streams and folders of the host when it needs them, and
//! keeps their handles. What is in memory when an application was imported would have those of
//! the build, which mean nothing to another instance. componentize-py has them let go at the end of its
//! own start; here the interpreter gets exports by which that can be done once more.

use anyhow::{Context, Result};
use wasm_encoder::{
    Alias, CanonicalFunctionSection, ComponentAliasSection, ComponentExportKind, ComponentExportSection,
    ComponentSection, ComponentTypeSection, ComponentValType, ExportKind,
};
use wasmparser::{Instance, Parser, Payload, Validator, WasmFeatures};

/// The exports, in the order in which they are called, and what they are in their modules: the latter
/// is of the C library itself, the former of the part that looks like an earlier WASI to others.
const EXPORTS: [(&str, &str); 2] =
    [("reset-adapter", "reset_adapter_state"), ("reset-folders", "__wasilibc_reset_preopens")];

/// The names of the exports.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    EXPORTS.iter().map(|(export, _)| *export)
}

/// The component with these exports.
pub(super) fn exported(component: &[u8]) -> Result<Vec<u8>> {
    let types = Validator::new_with_features(WasmFeatures::all()).validate_all(component)?;
    let types = types.as_ref();
    let (ty, core, function) =
        (types.component_type_count(), types.function_count(), types.component_function_count());
    let (mut aliases, mut lifted, mut exports) =
        (ComponentAliasSection::new(), CanonicalFunctionSection::new(), ComponentExportSection::new());
    for ((export, name), number) in EXPORTS.into_iter().zip(0..) {
        let instance = instance_with(component, name)?.with_context(|| format!("has no {name}"))?;
        aliases.alias(Alias::CoreInstanceExport { instance, kind: ExportKind::Func, name });
        lifted.lift(core + number, ty, []);
        exports.export(export, ComponentExportKind::Func, function + number, None);
    }
    let mut function = ComponentTypeSection::new();
    function.function().params::<[(&str, ComponentValType); 0], _>([]).result(None);
    let mut component = component.to_vec();
    aliases.append_to_component(&mut component);
    function.append_to_component(&mut component);
    lifted.append_to_component(&mut component);
    exports.append_to_component(&mut component);
    Ok(component)
}

/// The core instance of the module that exports a function of this name.
fn instance_with(component: &[u8], name: &str) -> Result<Option<u32>> {
    let (mut depth, mut modules, mut instances, mut found) = (0, 0, 0, None);
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ModuleSection { .. } if depth == 1 => modules += 1,
            Payload::ExportSection(exports) if depth == 2 => {
                for export in exports {
                    if export?.name == name {
                        found = Some(modules - 1);
                    }
                }
            }
            Payload::InstanceSection(made) if depth == 1 => {
                for made in made {
                    if matches!(made?, Instance::Instantiate { module_index, .. } if Some(module_index) == found)
                    {
                        return Ok(Some(instances));
                    }
                    instances += 1;
                }
            }
            _ => {}
        }
    }
    Ok(None)
}
