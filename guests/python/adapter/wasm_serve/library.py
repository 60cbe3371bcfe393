"""The standard library's files: applications import more of it than is in memory when the interpreter is made."""

import os
import shutil

# Where componentize-py has it.
LIBRARY = os.path.dirname(shutil.__file__)
# What takes much room, and cannot run in a WebAssembly guest.
LEFT_OUT = {"__pycache__", "ensurepip", "idlelib", "lib-dynload", "test", "tkinter", "turtledemo"}


def copy_to(place):
    for folder, folders, files in os.walk(LIBRARY):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        copied = place + folder.removeprefix(LIBRARY)
        for name in folders:
            os.mkdir(f"{copied}/{name}")
        for name in files:
            shutil.copyfile(f"{folder}/{name}", f"{copied}/{name}")
