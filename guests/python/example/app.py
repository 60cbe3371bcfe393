"""An application for wasm-serve: WSGI, and work after the answer by asyncio's timers."""

import asyncio
import sys
import urllib.request
from urllib.parse import parse_qs

import wasm_serve

PLAIN = ("Content-Type", "text/plain")
PIECE_BYTES_MAX = 65536


class Answer(Exception):
    """A response that ends the work on a request."""


def application(environ, start_response):
    route = ROUTES.get(environ["PATH_INFO"], not_found)
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    try:
        status, headers, body = route(environ, query)
    except Answer as answer:
        status, headers, body = answer.args
    start_response(f"{status} ", headers)
    return body


def text(status, body):
    return status, [PLAIN], [body.encode()]


def hello(environ, query):
    return text(200, "Hello World")


def not_found(environ, query):
    return text(404, "not found")


def echo(environ, query):
    kind = environ.get("CONTENT_TYPE")
    body = environ["wsgi.input"]
    # `read1` gives what has arrived; `read` would wait for the whole of it.
    pieces = iter(lambda: body.read1(PIECE_BYTES_MAX), b"")
    return 200, [("Content-Type", kind)] if kind else [], pieces


def status(environ, query):
    code = number(query, "code")
    if not 200 <= code <= 599:
        raise Answer(*text(400, "code is not a status from 200 to 599"))
    headers = [tuple(header.split(":", 1)) for header in query.get("header", [])]
    if not all(len(header) == 2 for header in headers):
        raise Answer(*text(400, "a header is NAME:VALUE"))
    return code, headers, [] if code in (204, 304) else [str(code).encode()]


def file(environ, query):
    try:
        with open(first(query, "name")) as content:
            return text(200, content.read())
    except OSError as reason:
        return text(404, str(reason))


def fetch(environ, query):
    try:
        return text(200, ask(first(query, "url")))
    except (OSError, ValueError) as reason:
        return text(502, str(reason))


def ask(url):
    """What another server answers: its status, and its body."""
    with urllib.request.urlopen(url) as answer:
        return f"{answer.status} {answer.read().decode()}"


def later(environ, query):
    delay = number(query, "delay-ms", 5000) / 1000
    payload = "x" * number(query, "size") if "size" in query else first(query, "text")
    loop = asyncio.get_event_loop()
    try:
        timers = [loop.call_later(delay, deferred, payload) for _ in range(number(query, "count", 1))]
    except (ValueError, RuntimeError, OverflowError) as refused:
        return text(503, f"{refused.error} {refused.limit}")
    return text(200, str(timers[-1].id))


def cancel(environ, query):
    return text(200, "true" if wasm_serve.cancel(number(query, "id")) else "false")


def log(environ, query):
    print("out", first(query, "text"))
    print("err", first(query, "text"), file=sys.stderr)
    return text(200, "logged")


def trap(environ, query):
    raise RuntimeError("asked to die")


def deferred(payload):
    """Runs in any instance. What it raises is logged."""
    print("deferred", payload)
    if payload == "fail":
        raise RuntimeError("asked to fail")
    if payload.startswith("read "):
        with open(payload.removeprefix("read ")) as lines:
            for k, line in enumerate(lines):
                print(f"{k}:{line.rstrip()}")
    if payload.startswith("fetch "):
        print("fetched", ask(payload.removeprefix("fetch ")))


ROUTES = {
    "/": hello,
    "/echo": echo,
    "/status": status,
    "/file": file,
    "/fetch": fetch,
    "/later": later,
    "/cancel": cancel,
    "/log": log,
    "/trap": trap,
}


def first(query, name):
    return query.get(name, [""])[0]


def number(query, name, otherwise=None):
    digits = first(query, name)
    if name not in query and otherwise is not None:
        return otherwise
    if not (digits.isascii() and digits.isdigit()):
        raise Answer(*text(400, f"{name} is not a whole number"))
    return int(digits)
