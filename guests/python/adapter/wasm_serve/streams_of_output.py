"""Standard output and error: to the server's log, in as few host calls as possible.

The interpreter starts unbuffered under componentize-py, where each `print` would
be a host call. Output is kept until the call ends, errors until the line ends.
"""

import io
import sys


def install():
    sys.stdout = sys.__stdout__ = _stream(1, line_buffering=False, errors="surrogateescape")
    sys.stderr = sys.__stderr__ = _stream(2, line_buffering=True, errors="backslashreplace")


def _stream(descriptor, line_buffering, errors):
    raw = io.FileIO(descriptor, "w", closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors=errors, newline="\n", line_buffering=line_buffering
    )
    stream.mode = "w"
    return stream


def flush():
    """At the end of each call; a program may have put streams of its own in place."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        pass
