"""From a request's head to the environ of PEP 3333."""

from wasm_serve import host

# Complete but for the request: copied for each.
TEMPLATE = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    # Calls of other instances run at the same time, some perhaps in other processes; none in this instance.
    "wsgi.multithread": False,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    # The body ends where it ends, whether or not its length is known.
    "wsgi.input_terminated": True,
}


def environ_of_request():
    """The host gives all that depends on the request: names and values in turn, each after a separator."""
    environ = TEMPLATE.copy()
    request = host.call_import(host.REQUEST, ())
    texts = iter(request.split(request[0]))
    next(texts)
    environ.update(zip(texts, texts))
    return environ
