"""From the settings to the user's WSGI callable.

The generated module `wasm_serve_settings` says PATH (the file's name as the user
gave it) and CALLABLE (the name of the callable in it); the file `source` beside it
is the user's.
"""

import importlib.util
import inspect
import linecache
import os
import re
import sys
import types

import wasm_serve_settings as settings

from wasm_serve import report


def load():
    """Executes the file as a module, so that its functions can be pickled by their names."""
    stem = os.path.splitext(os.path.basename(settings.PATH))[0]
    module = types.ModuleType("uwsgi_file_" + re.sub(r"\W", "_", stem))
    module.__file__ = settings.PATH
    sys.modules[module.__name__] = module
    with open(os.path.dirname(settings.__file__) + "/source", "rb") as file:
        source = file.read()
    code = compile(source, settings.PATH, "exec", dont_inherit=True)
    # In the encoding that the source itself names.
    lines = importlib.util.decode_source(source).splitlines(keepends=True)
    linecache.cache[settings.PATH] = (len(source), None, lines, settings.PATH)
    with report.noting_files():
        exec(code, module.__dict__)
    name = settings.CALLABLE
    application = getattr(module, name, None)
    if application is None:
        raise AttributeError(f"{settings.PATH} has no {name!r}: name the WSGI callable with --callable")
    if not callable(application):
        raise TypeError(f"{name!r} in {settings.PATH} is not callable: it is a {type(application).__name__}")
    if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(type(application).__call__):
        raise TypeError(f"{name!r} in {settings.PATH} is asynchronous (ASGI); what is served here is WSGI")
    return application
