"""From a request's head to the environ of PEP 3333."""

import os
import sys
from urllib.parse import unquote_to_bytes

# Complete but for the request: copied for each. SERVER_NAME and SERVER_PORT join at an instance's first request.
TEMPLATE = {
    "SCRIPT_NAME": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    # Calls of other instances run at the same time, some perhaps in other processes; none in this instance.
    "wsgi.multithread": False,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}

# From the name of a header to its key, filled as they come; None for those that are left out.
KEYS = {
    "content-type": "CONTENT_TYPE",
    "content-length": "CONTENT_LENGTH",
    # It would be taken for a variable that says which proxy to use.
    "proxy": None,
}
KEYS_MAX = 1000


def key_of(name):
    key = KEYS.get(name, "")
    if key == "":
        # `x_real_ip` would have the key of `x-real-ip`, which a proxy may have set.
        key = None if "_" in name else "HTTP_" + name.upper().replace("-", "_")
        if len(KEYS) < KEYS_MAX:
            KEYS[name] = key
    return key


def environ_of(method, target, authority, headers):
    """Texts are what PEP 3333 wants: one character for each byte."""
    environ = TEMPLATE.copy()
    environ["REQUEST_METHOD"] = method
    environ["REQUEST_URI"] = target
    path, _, environ["QUERY_STRING"] = target.partition("?")
    if not target.isascii():
        environ["REQUEST_URI"] = target.encode().decode("latin-1")
        environ["QUERY_STRING"] = environ["QUERY_STRING"].encode().decode("latin-1")
        path = unquote_to_bytes(path).decode("latin-1")
    elif "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    environ["PATH_INFO"] = path
    if authority:
        environ["HTTP_HOST"] = authority
    keys = KEYS
    for name, value in headers:
        key = keys[name] if name in keys else key_of(name)
        if key is None:
            continue
        if key in environ and key != "HTTP_HOST":
            if key == "HTTP_COOKIE":
                value = environ[key] + "; " + value.decode("latin-1")
            elif key != "CONTENT_LENGTH":
                value = environ[key] + ", " + value.decode("latin-1")
            else:
                continue
            environ[key] = value
        else:
            environ[key] = value.decode("latin-1")
    # The server sets it to one address, or to `unix`, where there is no address: then it stays empty.
    address = environ.get("HTTP_X_FORWARDED_FOR", "")
    if address != "unix":
        environ["REMOTE_ADDR"] = address
    return environ


def complete(authority):
    """At the first request of an instance, from the server's variables; else from what the client calls us."""
    host, _, port = (authority or "localhost").rpartition(":")
    if not port.isdecimal():
        host, port = authority or "localhost", "80"
    TEMPLATE["SERVER_NAME"] = os.environ.get("SERVER_NAME") or host
    TEMPLATE["SERVER_PORT"] = os.environ.get("SERVER_PORT") or port
    TEMPLATE["wsgi.errors"] = sys.stderr
