"""Standard output and error: to the server's log, in as few host calls as possible.

The interpreter starts unbuffered under componentize-py, where each `print` would
be a host call. Output is kept until the call ends, errors until the line ends.
"""

import io
import sys

from wasm_serve import hints

HINTS_MAX = 100


def install():
    output = io.FileIO(1, "w", closefd=False)
    sys.stdout = sys.__stdout__ = _stream(output, line_buffering=False, errors="surrogateescape")
    sys.stderr = sys.__stderr__ = _stream(Errors(), line_buffering=True, errors="backslashreplace")


def _stream(raw, line_buffering, errors):
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors=errors, newline="\n", line_buffering=line_buffering
    )
    stream.mode = "w"
    return stream


class Errors(io.FileIO):
    """Standard error. Most frameworks write tracebacks of requests there by themselves, so it is here that a
    line is added to those which do not say what is to be done."""

    # Those that were written: once in an instance is enough.
    given = set()

    def __init__(self):
        super().__init__(2, "w", closefd=False)

    def write(self, data):
        written = super().write(data)
        text = bytes(data)
        if written == len(text) and b"rror" in text:
            for hint in hints.of_text(text.decode("utf-8", "replace")):
                if hint not in self.given and len(self.given) < HINTS_MAX:
                    self.given.add(hint)
                    super().write(f"{hint}.\n".encode("utf-8", "replace"))
        return written


def flush():
    """At the end of each call; a program may have put streams of its own in place."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        pass
