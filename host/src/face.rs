//! What is known of a guest before it is compiled, and whether that will do.

use anyhow::{Context, Result, bail, ensure};
use wasmparser::{DataKind, Encoding, Parser, Payload};

use crate::imports::timers;

/// The export that runs deferred calls, for WASI 0.2 and for 0.3.
pub const CALLBACK: &str = "wasm-serve:deferred/callback@0.1.0";
pub const CALLBACK_ASYNC: &str = "wasm-serve:deferred/callback-async@0.1.0";

/// Initial data of a guest that wasmtime copies into each instance. More of it is taken
/// out of the guest, if possible.
const DATA_BYTES_COPIED_MAX: u64 = 128 << 10;

/// What is known of a component before it is compiled: the names of its imports
/// and exports, and how much data comes with it.
pub struct Face {
    pub imports: Vec<String>,
    exports: Vec<String>,
    /// What wasmtime writes into each instance's memories.
    pub data_bytes: u64,
}

impl Face {
    pub fn read(bytes: &[u8]) -> Result<Face> {
        if !bytes.starts_with(b"\0asm") {
            if bytes.trim_ascii_start().starts_with(b"(") {
                bail!(
                    "is WebAssembly in text form; make the binary form of it, for example with `wasm-tools parse`"
                );
            }
            bail!("is not WebAssembly");
        }
        let mut face = Face { imports: Vec::new(), exports: Vec::new(), data_bytes: 0 };
        let mut nested = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.context("is not valid WebAssembly")? {
                Payload::Version { encoding: Encoding::Module, .. } if nested == 0 => {
                    bail!(
                        "is a core module, not a component; make a component of it, for example with `wasm-tools component new`, or build for the target `wasm32-wasip2`"
                    );
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => nested += 1,
                Payload::End(_) if nested > 0 => nested -= 1,
                Payload::ComponentImportSection(imports) if nested == 0 => {
                    for import in imports {
                        face.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if nested == 0 => {
                    for export in exports {
                        face.exports.push(export?.name.name.to_owned());
                    }
                }
                Payload::DataSection(segments) => {
                    for segment in segments {
                        let segment = segment?;
                        if matches!(segment.kind, DataKind::Active { .. }) {
                            face.data_bytes += segment.data.len() as u64;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(face)
    }

    pub fn check(&self) -> Result<()> {
        let handlers = self.is_p2() as u32 + self.is_p3() as u32;
        if handlers == 0 {
            let exports =
                if self.exports.is_empty() { "nothing".to_owned() } else { self.exports.join(", ") };
            bail!(
                "exports neither `wasi:http/incoming-handler` (0.2) nor `wasi:http/handler` (0.3), but {exports}; build it for the world `wasi:http/proxy` or `wasi:http/service`"
            );
        }
        ensure!(
            handlers == 1,
            "exports both `wasi:http/incoming-handler` and `wasi:http/handler`; export one of them"
        );
        let callbacks = self.has_export(CALLBACK) as u32 + self.has_export(CALLBACK_ASYNC) as u32;
        ensure!(callbacks < 2, "exports both `{CALLBACK}` and `{CALLBACK_ASYNC}`; export one of them");
        let schedules = self.imports.iter().any(|import| import == timers::INTERFACE);
        ensure!(
            callbacks == 1 || !schedules,
            "imports `{}`, but exports no callback to run; export `{CALLBACK}` or `{CALLBACK_ASYNC}`",
            timers::INTERFACE
        );
        Ok(())
    }

    fn is_p2(&self) -> bool {
        self.exports.iter().any(|export| export.starts_with("wasi:http/incoming-handler@0.2."))
    }

    pub fn is_p3(&self) -> bool {
        self.exports.iter().any(|export| export.starts_with("wasi:http/handler@0.3."))
    }

    fn has_export(&self, name: &str) -> bool {
        self.exports.iter().any(|export| export == name)
    }

    /// wasmtime has little data to copy: instances take their memories from `memories`.
    /// Otherwise its own pool maps the data copy-on-write.
    pub fn is_small(&self) -> bool {
        self.data_bytes <= DATA_BYTES_COPIED_MAX
    }

    /// The guest needs tasks that run concurrently. An engine without them is
    /// faster, and the choice stands before anything is compiled.
    pub fn is_concurrent(&self) -> bool {
        let mut names = self.imports.iter().chain(&self.exports);
        names.any(|name| name.contains("@0.3.") || name == CALLBACK_ASYNC)
    }
}
