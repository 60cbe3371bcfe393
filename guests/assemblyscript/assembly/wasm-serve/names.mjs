// Gives the functions of exports.ts the names by which the server knows them, which
// are no names of AssemblyScript. The compiler loads this as a transform.
const names = {
  handle: "wasi:http/incoming-handler@0.2.12#handle",
  run: "wasm-serve:deferred/callback@0.1.0#run",
};

export default class Names {
  afterCompile(module) {
    for (const [name, exported] of Object.entries(names)) {
      module.removeExport(name);
      module.addFunctionExport(`assembly/wasm-serve/exports/${name}`, exported);
    }
  }
}
