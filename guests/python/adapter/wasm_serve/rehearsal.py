"""Before an application is imported, what runs in each request runs as if in some.

CPython adapts code to what it meets, and notes what it has found in classes: in the code and in
the classes themselves. Each instance would do so anew in its first request, which takes time, and pages.
"""

import contextvars

from wasm_serve import beginning, callbacks, wsgi

TIMES = 64
DeferredCall = __import__("wit_world.imports.wasm_serve_deferred_types", fromlist=["*"]).DeferredCall


def begin():
    """The export `rehearse`. The host calls `handle` afterwards."""
    wsgi.serve(application)
    payload = callbacks.payload_of(callback, (), contextvars.Context())
    for _ in range(TIMES):
        beginning.begin()
        callbacks.run(DeferredCall(1, payload, 0, 0, 1))
    callbacks.CALLBACKS.clear()
    callbacks.PAYLOADS.clear()


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello World"]


def callback():
    pass
