"""WSGI (PEP 3333) and asyncio's timers on `wasi:http` 0.2 and `wasm-serve:deferred`."""


def cancel(identity):
    """Cancels a deferred call by the `id` of its TimerHandle, from any request. True if it will never run."""
    from wasm_serve import loop

    return loop.cancel(identity)
