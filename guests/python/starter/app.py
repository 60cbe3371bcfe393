import asyncio


def application(environ, start_response):
    """Answers a request, and defers the rest of the work: it begins five seconds later,
    in any instance. The function and its arguments travel there as a pickle."""
    asyncio.get_event_loop().call_later(5, later, environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello World\n"]


def later(path):
    """Runs the deferred call. Standard output is the server's log."""
    print("deferred:", path)
