//! `wasi:sockets`, as far as it is ours: connections to what is granted, and the names that lead
//! there. Nothing listens.

mod concurrent;
mod concurrent_tcp;
mod functions;
mod lookup;
mod tcp;
mod tcp_options;
mod udp;

use wasmtime::component::Linker;

use crate::sandbox::state::State;

/// Takes the place of wasmtime's functions.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = add(linker, is_concurrent);
    linker.allow_shadowing(false);
    added
}

fn add(linker: &mut Linker<State>, is_concurrent: bool) -> wasmtime::Result<()> {
    tcp::add_to_linker(linker)?;
    udp::add_to_linker(linker)?;
    lookup::add_to_linker(linker)?;
    if is_concurrent {
        concurrent_tcp::add_to_linker(linker)?;
        concurrent::add_to_linker(linker)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wit_parser::Resolve;

    use super::*;

    /// A function of wasmtime's that is left would be given a socket of ours.
    #[test]
    fn all_functions_of_sockets_that_are_ours_are_there() {
        let mut config = wasmtime::Config::new();
        config.wasm_component_model_async(true);
        let mut own = Linker::new(&wasmtime::Engine::new(&config).unwrap());
        add_to_linker(&mut own, true).unwrap();
        let mut wit = Resolve::default();
        wit.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
        let mut count = 0;
        for (_, interface) in &wit.interfaces {
            let (Some(name), Some(package)) = (&interface.name, interface.package) else { continue };
            let name = wit.packages[package].name.interface_id(name);
            let is_ours = |function: &str| match name.as_str() {
                "wasi:sockets/tcp@0.2.12"
                | "wasi:sockets/tcp-create-socket@0.2.12"
                | "wasi:sockets/udp-create-socket@0.2.12"
                | "wasi:sockets/ip-name-lookup@0.2.12"
                | "wasi:sockets/ip-name-lookup@0.3.0" => true,
                "wasi:sockets/types@0.3.0" => {
                    function.contains("]tcp-socket.") || function == "[static]udp-socket.create"
                }
                _ => false,
            };
            for function in interface.functions.keys().filter(|function| is_ours(function)) {
                let added = own.instance(&name).unwrap().func_wrap(function, |_, ()| Ok(()));
                assert!(added.is_err(), "{name} {function} was not there");
                count += 1;
            }
        }
        assert!(count >= 60, "{count}");
    }
}
