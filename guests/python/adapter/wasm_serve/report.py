"""What the build is told: which files went into the component, or why it failed.

Of a successful build, componentize-py shows nothing that the program printed; so
both are files in the folder of the settings, which is writable while it builds.
"""

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

# What files that were imported or opened were then, since their content may be in the component:
# their SHA-256 sum, or "missing".
FILES = {}


def _folder():
    import wasm_serve_settings

    return os.path.dirname(wasm_serve_settings.__file__)


@contextlib.contextmanager
def of_the_build():
    """Writes a failure's traceback to `failure.txt` and lets it end the build."""
    try:
        yield
    except BaseException as failure:
        with open(_folder() + "/failure.txt", "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(_without_our_frames(failure))) + _hint(failure))
        raise


def _hint(failure):
    """What to do about a failure that would not be one outside of a build."""
    frames = failure.__traceback__
    while frames and frames.tb_next:
        frames = frames.tb_next
    module = frames and frames.tb_frame.f_globals.get("__name__")
    if isinstance(failure, KeyError) and module == "os":
        return "While the component is built, os.environ is empty: look at it in a request.\n"
    if isinstance(failure, FileNotFoundError):
        return (
            "While the component is built, only files beside an imported module can be opened, by its __file__;"
            " those of the current folder can be in a request.\n"
        )
    return ""


def _without_our_frames(failure):
    """The traceback from the user's first frame on, if there is one."""
    ours = os.path.dirname(__file__)
    frames = failure.__traceback__
    while frames and (
        frames.tb_frame.f_code.co_filename.startswith((ours, os.path.dirname(ours) + "/wasm_serve", "<frozen"))
    ):
        frames = frames.tb_next
    return failure.with_traceback(frames)


@contextlib.contextmanager
def noting_files():
    """Notes what is imported or opened meanwhile."""

    def noting_open(file, mode="r", *arguments, **options):
        if not isinstance(file, int) and ("r" in mode or "+" in mode):
            _note(os.fsdecode(file))
        return real_open(file, mode, *arguments, **options)

    def noting_get_data(loader, path):
        content = real_get_data(loader, path)
        _note(path, content)
        return content

    real_open, real_get_data = io.open, SourceFileLoader.get_data
    io.open = builtins.open = noting_open
    SourceFileLoader.get_data = noting_get_data
    try:
        yield
    finally:
        io.open = builtins.open = real_open
        SourceFileLoader.get_data = real_get_data


def _note(path, content=None):
    """Notes a file as it was when it was first read."""
    path = os.path.abspath(path)
    if path in FILES or not _is_in_a_folder(path):
        return
    try:
        with io.FileIO(path) if content is None else io.BytesIO(content) as file:
            FILES[path] = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        FILES[path] = "missing"
    except OSError:
        # A folder, or what cannot be read.
        pass


def _is_in_a_folder(path):
    """Whether it is in one of componentize-py's `-p` folders, which are `/0`, `/1` and so on."""
    return re.match(r"/\d+/", path) and path.isprintable()


def finish():
    """Writes to `files.txt` what was noted, and keeps source lines for tracebacks.

    A line is `SUM PATH`, `missing PATH`, or `folder PATH`.
    """
    folders = set()
    for module in list(sys.modules.values()):
        if not isinstance(module, types.ModuleType):
            continue
        folders.update(filter(_is_in_a_folder, vars(module).get("__path__") or ()))
        path = vars(module).get("__file__")
        if not path or not _is_in_a_folder(path):
            continue
        # One that was there before, or has no source.
        _note(path)
        lines = linecache.getlines(path)
        # Without a time of change, `checkcache` does not look for the file, which is gone at run time.
        linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
    noted = sorted(FILES.items()) + [(folder, "folder") for folder in sorted(folders)]
    with open(_folder() + "/files.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{what} {path}\n" for path, what in noted)
    gc.collect()
    # What the build made is never garbage: instances need not look at it, so its pages stay shared.
    gc.freeze()
