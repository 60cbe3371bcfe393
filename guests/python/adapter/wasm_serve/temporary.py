"""Temporary files without a folder for them: they stay in memory.

Frameworks put an upload that is over some size into one. Only files without a name
can be replaced; where a folder can be written, all is as ever.
"""

import io
import tempfile

on_disk = tempfile.TemporaryFile


def temporary_file(mode="w+b", buffering=-1, encoding=None, newline=None, *others, dir=None, errors=None, **named):
    try:
        return on_disk(mode, buffering, encoding, newline, *others, dir=dir, errors=errors, **named)
    except FileNotFoundError:
        # The one that means "no usable temporary directory", unless the program names one.
        if dir is not None:
            raise
        file = io.BytesIO()
        return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)


def install():
    tempfile.TemporaryFile = temporary_file
