"""From an application's file to a callable in memory: the build.

It is run once, in an instance of the interpreter. What is in memory at its end is what each instance
of the application starts with.
"""

import importlib
import importlib.util
import inspect
import json
import linecache
import os
import re
import sys
import types
import zoneinfo
from asyncio import coroutines

from wasm_serve import authorities, beginning, callbacks, chance, commonly_needed, contexts, handles, host, loop
from wasm_serve import report, streams_of_output, variables, wsgi


def load(path, name, source, folders, environment):
    """The export of `wasm-serve:gateway/application`. `source` is the file's content, a character a byte."""
    try:
        _look_in(folders)
        variables.watch(environment)
        # What is in memory already has looked at variables when the interpreter was made.
        zoneinfo.reset_tzpath()
        loop.LOOP.set_debug(coroutines._is_debug_mode())
        # It has a copy of all variables, for servers that are processes of their own; nothing here is made of that.
        with variables.unnoted():
            importlib.import_module("wsgiref.handlers")
        handles.watch()
        chance.watch()
        with host.left_out():
            wsgi.serve(_application(path, name, source.encode("latin-1")))
        # What was printed meanwhile is not to be printed by each instance.
        streams_of_output.flush()
        handles.let_go()
        chance.let_go()
        authorities.note()
        asked = variables.let_go()
        contexts.begin_here()
        wsgi.answer = contexts.starting(wsgi.answer)
        callbacks.run_call = contexts.starting(callbacks.run_call)
        beginning.is_the_next_call()
        return json.dumps({"files": report.noted(), "variables": asked})
    except BaseException as failure:
        raise host.Err(report.failed(failure)) from None


def _look_in(folders):
    """For modules: behind ours, so that none of the application's replaces one of those."""
    at = sys.path.index(report.FOLDERS[-1])
    sys.path[at : at + 1] = folders
    report.FOLDERS[:] = folders
    # What was in one of them when the interpreter was made.
    sys.path_importer_cache.clear()


def _application(path, name, source):
    """Executes the file as a module, so that its functions can be pickled by their names."""
    stem = os.path.splitext(os.path.basename(path))[0]
    module = types.ModuleType("uwsgi_file_" + re.sub(r"\W", "_", stem))
    module.__file__ = path
    sys.modules[module.__name__] = module
    code = compile(source, path, "exec", dont_inherit=True)
    # In the encoding that the source itself names.
    lines = importlib.util.decode_source(source).splitlines(keepends=True)
    linecache.cache[path] = (len(source), None, lines, path)
    with report.noting_files():
        exec(code, module.__dict__)
        commonly_needed.of_packages()
    application = getattr(module, name, None)
    if application is None:
        raise AttributeError(f"{path} has no {name!r}: name the WSGI callable with --callable")
    if not callable(application):
        raise TypeError(f"{name!r} in {path} is not callable: it is a {type(application).__name__}")
    if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(type(application).__call__):
        raise TypeError(f"{name!r} in {path} is asynchronous (ASGI); what is served here is WSGI")
    return application
