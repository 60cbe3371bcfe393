"""WSGI (PEP 3333) and asyncio's timers on `wasi:http` 0.2 and `wasm-serve:deferred`."""
