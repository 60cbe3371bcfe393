"""What the build is told: which files were imported, or why it failed.

Of a successful build, componentize-py shows nothing that the program printed; so
both are files in the folder of the settings, which is writable while it builds.
"""

import builtins
import contextlib
import gc
import io
import linecache
import os
import re
import sys
import traceback

# What the program opened while it was executed: its content may be in the component.
OPENED = set()


def _folder():
    import wasm_serve_settings

    return os.path.dirname(wasm_serve_settings.__file__)


@contextlib.contextmanager
def of_the_build():
    """Writes a failure's traceback to `failure.txt` and lets it end the build."""
    try:
        yield
    except BaseException as failure:
        with open(_folder() + "/failure.txt", "w", encoding="utf-8") as file:
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
def noting_opened_files():
    def noting(file, *arguments, **options):
        if isinstance(file, (str, os.PathLike)):
            OPENED.add(os.path.abspath(file))
        return real(file, *arguments, **options)

    real = io.open
    io.open = builtins.open = noting
    try:
        yield
    finally:
        io.open = builtins.open = real


def finish():
    """Writes the files that were imported or opened to `imports.txt`, and keeps their source lines for tracebacks.

    A path begins with `/N/`, where N counts componentize-py's `-p` folders from 0.
    """
    imported = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and re.match(r"/\d+/", path):
            imported.add(path)
    for path in imported:
        lines = linecache.getlines(path)
        # Without a time of change, `checkcache` does not look for the file, which is gone at run time.
        linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
    opened = {path for path in OPENED if re.match(r"/\d+/", path)}
    with open(_folder() + "/imports.txt", "w", encoding="utf-8") as file:
        file.writelines(path + "\n" for path in sorted(imported | opened))
    gc.collect()
    # What the build made is never garbage: instances need not look at it, so its pages stay shared.
    gc.freeze()
