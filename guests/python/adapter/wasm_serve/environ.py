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
}


def environ_of_request():
    """The host gives all that depends on the request, names and values in turn, a line each."""
    environ = TEMPLATE.copy()
    lines = iter(host.call_import(host.REQUEST, ()).split("\n"))
    environ.update(zip(lines, lines))
    return environ
