"""What the build is told: which files went into the component, or why it failed."""

import builtins
import contextlib
import gc
import hashlib
import io
import linecache
import os
import re
import sys
import traceback
import types
from importlib.machinery import SourceFileLoader

from wasm_serve import hints

# Where the application's modules are looked for; while the interpreter is made, where they will be.
FOLDERS = ["/2"]
OURS = os.path.dirname(__file__)
# What was imported or opened, by its path: the SHA-256 sum of what it was then, since that may be in
# the component, or "missing". That of a folder of a package is the sum of the names of its modules.
NOTED = {}


def failed(failure):
    """What ended the build."""
    lines = traceback.format_exception(_without_our_frames(failure))
    return "".join([*lines, hints.of_build(failure)]).rstrip().encode("utf-8", "backslashreplace").decode()


def _without_our_frames(failure):
    """The traceback from the user's first frame on, if there is one."""
    frames = failure.__traceback__
    while frames and frames.tb_frame.f_code.co_filename.startswith((OURS, "<frozen")):
        frames = frames.tb_next
    return failure.with_traceback(frames)


@contextlib.contextmanager
def noting_files():
    """Notes what is imported or opened meanwhile."""

    def noting_open(file, mode="r", *arguments, **options):
        if is_noting and not isinstance(file, int) and ("r" in mode or {"a", "+"} <= set(mode)):
            _note(os.fsdecode(file))
        return real_open(file, mode, *arguments, **options)

    def noting_get_data(loader, path):
        content = real_get_data(loader, path)
        _note(path, content)
        if os.path.basename(path) == "__init__.py":
            _note_folder(os.path.dirname(path))
        return content

    # A module may have taken it by `from io import open`: after the build it is what it stands for.
    is_noting = True
    real_open, real_get_data = io.open, SourceFileLoader.get_data
    # As built-in functions, and unlike other ones, they become no methods where a class has them.
    io.open = builtins.open = staticmethod(noting_open)
    SourceFileLoader.get_data = noting_get_data
    try:
        yield
    finally:
        is_noting = False
        io.open = builtins.open = real_open
        SourceFileLoader.get_data = real_get_data


def _note(path, content=None):
    """Notes a file as it was when it was first read."""
    path = os.path.abspath(path)
    if path in NOTED or not _is_in_a_folder(path):
        return
    try:
        with io.FileIO(path) if content is None else io.BytesIO(content) as file:
            NOTED[path] = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        NOTED[path] = "missing"
    except OSError:
        # A folder, or what cannot be read.
        pass


def _note_folder(path):
    """Notes what an import could find in a package's folder, before one is tried."""
    if path in NOTED or not _is_in_a_folder(path):
        return
    with contextlib.suppress(OSError):
        names = [
            name
            for name in sorted(os.listdir(path))
            if os.path.splitext(name)[1] == ".py" or os.path.isfile(f"{path}/{name}/__init__.py")
        ]
        NOTED[path] = hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()


def _is_in_a_folder(path):
    """Whether it is in one of the application's folders, and can be in a text."""
    is_text = isinstance(path, str) and not re.search("[\ud800-\udfff]", path)
    return is_text and path.startswith(tuple(f"{folder}/" for folder in FOLDERS))


def noted():
    """What was noted, with all modules; their source lines are kept for tracebacks."""
    for module in _modules():
        # Those of packages without `__init__.py`.
        for folder in vars(module).get("__path__") or ():
            _note_folder(folder)
        path = vars(module).get("__file__")
        if _is_in_a_folder(path):
            # One that was there before, or has no source.
            _note(path)
            _keep_lines(path)
    gc.collect()
    # What the build made is never garbage: instances need not look at it, so its pages stay shared.
    gc.freeze()
    return NOTED


def keep_lines():
    """Keeps our own source lines, when the interpreter is made."""
    for module in _modules():
        path = vars(module).get("__file__")
        if isinstance(path, str) and path.startswith(OURS):
            _keep_lines(path)


def _modules():
    return [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]


def _keep_lines(path):
    lines = linecache.getlines(path)
    # Without a time of change, `checkcache` does not look for the file, which is gone at run time.
    linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
