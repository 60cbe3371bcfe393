"""From the settings to the user's WSGI callable.

The generated module `wasm_serve_settings` says PATH (the file's name as the user
gave it), SOURCE (its text) and CALLABLE (the name of the callable in it).
"""

import linecache
import os
import re
import sys
import types

import wasm_serve_settings as settings


def load():
    """Executes the file as a module, so that its functions can be pickled by their names."""
    stem = os.path.splitext(os.path.basename(settings.PATH))[0]
    module = types.ModuleType("uwsgi_file_" + re.sub(r"\W", "_", stem))
    module.__file__ = settings.PATH
    sys.modules[module.__name__] = module
    lines = settings.SOURCE.splitlines(keepends=True)
    linecache.cache[settings.PATH] = (len(settings.SOURCE), None, lines, settings.PATH)
    exec(compile(settings.SOURCE, settings.PATH, "exec", dont_inherit=True), module.__dict__)
    name = getattr(settings, "CALLABLE", "application")
    application = getattr(module, name, None)
    if application is None:
        raise AttributeError(f"{settings.PATH} has no {name!r}: name the WSGI callable with --callable")
    if not callable(application):
        raise TypeError(f"{name!r} in {settings.PATH} is not callable: it is a {type(application).__name__}")
    return application
