"""PEP 3333, a path for each part of it, under the standard library's validator, which must stay silent."""

import io
import sys
from wsgiref.validate import validator


class Pieces:
    """A body of some pieces, which notes that it was closed."""

    def __init__(self, pieces, name):
        self.pieces = iter(pieces)
        self.name = name

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.pieces)

    def close(self):
        print("closed", self.name, file=sys.stderr)


def text(start_response, *lines, status="200 OK", headers=()):
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return ["\n".join(lines).encode()]


def environ_as_text(environ, start_response):
    return text(start_response, *(f"{key}={environ[key]!r}" for key in sorted(environ)))


def line_by_line(environ, start_response):
    """A line leaves when it has come, so a client can wait for it before it sends the next one."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Pieces(iter(environ["wsgi.input"].readline, b""), "line by line")


def written(environ, start_response):
    """Bytes are on their way when `write` returns, whatever the program waits for then."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"first ")
    write(environ["wsgi.input"].readline())
    return [b"third ", b"", b"fourth"]


def replaced(environ, start_response):
    """Nothing was sent when it fails, so the second head replaces the first."""
    start_response("200 OK", [("Content-Type", "text/html")])
    try:
        raise KeyError("before the head")
    except KeyError:
        start_response("503 Replaced", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"replaced"]


def raised_again(environ, start_response):
    """The head has left when it fails, so the exception comes back and the transfer breaks."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"sent")
    try:
        raise KeyError("after the head")
    except KeyError:
        start_response("500 Too late", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"never"]


def failing_piece(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])

    def pieces():
        yield b"one"
        raise RuntimeError("in the second piece")

    return Pieces(pieces(), "failing")


def failing(environ, start_response):
    raise RuntimeError("before anything")


class Noted(io.FileIO):
    def close(self):
        if not self.closed:
            print("closed the file", file=sys.stderr)
        super().close()


def file(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](Noted("numbers.txt"), 8)


def echo(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    given = environ["wsgi.input"]
    return iter(lambda: given.read(65536), b"")


def counted(environ, start_response):
    given, length = environ["wsgi.input"], 0
    while piece := given.read(65536):
        length += len(piece)
    return text(start_response, str(length))


def lines(environ, start_response):
    given = environ["wsgi.input"]
    first, some, rest = given.readline(), given.readlines(1), list(given)
    return text(start_response, repr(first), repr(some), repr(rest), repr(given.read(10)))


def large(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(20 << 20))])
    return Pieces((b"x" * 65536 for _ in range(320)), "large")


def cookies(environ, start_response):
    return text(
        start_response, environ.get("HTTP_COOKIE", ""), headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    )


def nothing(environ, start_response):
    start_response("204 No Content", [])
    return []


def errors(environ, start_response):
    environ["wsgi.errors"].write("an error\n")
    environ["wsgi.errors"].writelines(["more ", "errors\n"])
    environ["wsgi.errors"].flush()
    return text(start_response, "logged")


PATHS = {
    "/": environ_as_text,
    "/line-by-line": line_by_line,
    "/written": written,
    "/replaced": replaced,
    "/raised-again": raised_again,
    "/failing-piece": failing_piece,
    "/failing": failing,
    "/file": file,
    "/echo": echo,
    "/counted": counted,
    "/lines": lines,
    "/large": large,
    "/cookies": cookies,
    "/nothing": nothing,
    "/errors": errors,
}


@validator
def application(environ, start_response):
    return PATHS.get(environ["PATH_INFO"], environ_as_text)(environ, start_response)
