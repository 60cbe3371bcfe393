"""What a failure does not say by itself: why it happens in a WebAssembly guest, and what to do about it."""

import os
import re
import sys

COMPILED = (".so", ".pyd", ".dylib")
# Modules that other ones are made of.
OF_LIBRARIES = {"ctypes", "_ctypes"}
OF_PROCESSES = {"multiprocessing", "_multiprocessing", "_posixsubprocess", "_posixshmem"}
# What failures are, at the beginning of the last line of their tracebacks.
MODULE = re.compile(r"^(?:\w+\.)*ModuleNotFoundError: No module named '([^']+)'", re.MULTILINE)
LOOKUP = re.compile(r"^(?:\w+\.)*gaierror: |NameResolutionError", re.MULTILINE)
THREAD = re.compile(r"^RuntimeError: can't start new thread", re.MULTILINE)


def of_module(name, is_built):
    """For a module that is not there, in the build or in a request."""
    if name in OF_LIBRARIES:
        return f"There is no {name} in a WebAssembly guest, which cannot load libraries: use modules of pure Python"
    if name in OF_PROCESSES:
        return (
            f"There is no {name} in a WebAssembly guest, which has no processes: defer work by "
            "asyncio.get_event_loop().call_later(delay, function, *arguments)"
        )
    compiled = _compiled(name)
    if compiled:
        return _of_compiled(name, compiled)
    if name.partition(".")[0] in sys.stdlib_module_names:
        if is_built:
            return f"{name}, of the standard library, does not exist in a WebAssembly guest"
        return (
            f"{name} was not imported when the component was built, and no module can be found later: import it at "
            "the top of the application's file (if that fails, it does not exist in a WebAssembly guest)"
        )
    if is_built:
        return "Packages are looked for in folders: `pip install --target DIR NAME`, and --pythonpath DIR"
    return (
        f"{name} was not imported when the component was built, and no module can be found later: import it at the "
        "top of the application's file"
    )


def _of_compiled(name, file):
    return (
        f"{name} is compiled for another machine ({file}), and cannot be loaded in a WebAssembly guest: use a "
        f"package of pure Python in the place of {name.partition('.')[0]}, or a version without compiled parts"
    )


def _compiled(name):
    """The file of a module that is no Python, where one is looked for."""
    parent, _, last = name.rpartition(".")
    # A package that could not be imported is no longer among the modules.
    inside = parent.replace(".", "/")
    for folder in [*getattr(sys.modules.get(parent), "__path__", ()), *(f"{path}/{inside}" for path in sys.path)]:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for file in names:
            if file.partition(".")[0] == last and file.endswith(COMPILED):
                return file
    return None


def of_text(text):
    """For tracebacks that a request has left, whoever has written them: a line each."""
    found = [of_module(name, is_built=False) for name in MODULE.findall(text)]
    if LOOKUP.search(text):
        found.append("A name is looked up if the server's --allow-outbound grants it; a line of the log says so if it does not")
    if THREAD.search(text):
        found.append(
            "There are no threads in a WebAssembly guest: call the function, or defer it by "
            "asyncio.get_event_loop().call_later(delay, function, *arguments)"
        )
    return found


def of_build(failure):
    """For the failure that ended the build; nothing if it says all by itself."""
    seen = failure
    while seen is not None:
        hint = _of_one(seen)
        if hint:
            return hint
        seen = seen.__cause__ or seen.__context__
    return ""


def _of_one(failure):
    if isinstance(failure, ModuleNotFoundError) and failure.name:
        return of_module(failure.name, is_built=True)
    if isinstance(failure, ImportError) and failure.path and failure.path.endswith(COMPILED):
        # Found, but no library for this machine. Its name is the last part alone.
        folder, _, file = failure.path.rpartition("/")
        inside = next((folder[len(path) + 1 :] for path in sys.path if path and folder.startswith(f"{path}/")), "")
        return _of_compiled(f"{inside}/{file.partition('.')[0]}".lstrip("/").replace("/", "."), file)
    frames = failure.__traceback__
    while frames and frames.tb_next:
        frames = frames.tb_next
    module = frames and frames.tb_frame.f_globals.get("__name__")
    if isinstance(failure, KeyError) and module == "os":
        name = failure.args[0] if failure.args else "NAME"
        return f"While the component is built, os.environ has what the server's --env gives: --env {name}=VALUE"
    if isinstance(failure, FileNotFoundError):
        return (
            "While the component is built, only files beside an imported module can be opened, by its __file__;"
            " those of the current folder can be in a request"
        )
    return ""
