//! `smith FOLDER COUNT SEED` makes guests at random: modules and components, most of them
//! programs, with what engines have and with what they do not have.

use std::fs;
use std::path::Path;

use arbitrary::{Arbitrary, Result, Unstructured};
use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption, ComponentAliasSection, ComponentExportKind,
    ComponentExportSection, ComponentInstanceSection, ComponentSectionId, ComponentTypeSection,
    ComponentValType, ExportKind, InstanceSection, ModuleArg, PrimitiveValType, RawSection,
};
use wasm_smith::{Component, Config, Module};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, count, seed] = &arguments[..] else { panic!("usage: smith FOLDER COUNT SEED") };
    let seed: u64 = seed.parse().expect("a number");
    for number in 0..count.parse().expect("a number") {
        let bytes = random_bytes(seed.wrapping_mul(1_000_003) + number);
        // Bytes that do not suffice make no guest.
        if let Ok(guest) = guest(&mut Unstructured::new(&bytes)) {
            fs::write(Path::new(folder).join(format!("{seed}-{number}")), guest).expect("a folder");
        }
    }
}

/// As many as `seed` says (SplitMix64).
fn random_bytes(mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let count = 32 + next() % 256;
    (0..count).flat_map(|_| next().to_le_bytes()).collect()
}

fn guest(random: &mut Unstructured) -> Result<Vec<u8>> {
    match random.int_in_range(0..=7)? {
        0..=3 => Ok(module(config(random)?, IMPORTS, "(func (export \"_start\"))", random)?),
        4 | 5 => Ok(program(&module(
            config(random)?,
            "",
            "(func (export \"run\") (result i32) unreachable)",
            random,
        )?)),
        6 => Ok(Component::new(config(random)?, random)?.to_bytes()),
        _ => Ok(Module::new(config(random)?, random)?.to_bytes()),
    }
}

/// Some of what a program can import.
const IMPORTS: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
    (import "wasm_serve" "call_later" (func (param i64 i32 i32) (result i64)))
    (import "wasm_serve" "cancel" (func (param i64) (result i32)))
"#;

/// With any proposal, and of a size that is soon compiled.
fn config(random: &mut Unstructured) -> Result<Config> {
    let mut config = Config::arbitrary(random)?;
    config.max_funcs = config.max_funcs.min(20);
    config.max_instructions = config.max_instructions.min(100);
    config.max_imports = config.max_imports.min(20);
    config.max_types = config.max_types.min(20);
    if random.ratio(3, 4)? {
        // What the engine of a server has.
        config.memory64_enabled = false;
        config.custom_page_sizes_enabled = false;
        config.shared_everything_threads_enabled = false;
        config.custom_descriptors_enabled = false;
        config.wide_arithmetic_enabled = false;
        config.threads_enabled = false;
        config.allow_invalid_funcs = false;
        config.max_memory32_bytes = 32 << 20;
        config.max_table_elements = 10_000;
    }
    Ok(config)
}

/// A core module that exports a function, and imports some of what there is.
fn module(mut config: Config, imports: &str, exports: &str, random: &mut Unstructured) -> Result<Vec<u8>> {
    let parse = |fields: &str| wat::parse_str(format!("(module {fields})")).expect("it is valid");
    config.available_imports = Some(parse(imports));
    config.exports = Some(parse(exports));
    Ok(Module::new(config, random)?.to_bytes())
}

/// A component that is a program, with this core module.
fn program(module: &[u8]) -> Vec<u8> {
    let mut instances = InstanceSection::new();
    instances.instantiate(0, [] as [(&str, ModuleArg); 0]);
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::CoreInstanceExport { instance: 0, kind: ExportKind::Func, name: "run" });
    let mut types = ComponentTypeSection::new();
    types.defined_type().result(None, None);
    let no_parameters = [] as [(&str, PrimitiveValType); 0];
    types.function().params(no_parameters).result(Some(ComponentValType::Type(0)));
    let mut functions = CanonicalFunctionSection::new();
    functions.lift(0, 1, [] as [CanonicalOption; 0]);
    let mut interfaces = ComponentInstanceSection::new();
    interfaces.export_items([("run", ComponentExportKind::Func, 0)]);
    let mut exports = ComponentExportSection::new();
    exports.export("wasi:cli/run@0.2.0", ComponentExportKind::Instance, 0, None);
    let mut component = wasm_encoder::Component::new();
    component.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: module });
    component.section(&instances).section(&aliases).section(&types).section(&functions);
    component.section(&interfaces).section(&exports);
    component.finish()
}
