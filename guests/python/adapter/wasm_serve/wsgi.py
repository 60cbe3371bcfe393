"""One request: from the host's `handle` through the application and back."""

import sys
import traceback

from wasm_serve import contexts, environ as heads, host, streams_of_output
from wasm_serve.body import FileWrapper, Input
from wasm_serve.response import ClientGone, Response, plain

APPLICATION = None


def serve(application):
    global APPLICATION
    APPLICATION = application
    heads.TEMPLATE["wsgi.file_wrapper"] = FileWrapper
    heads.TEMPLATE["wsgi.errors"] = sys.stderr


def handle(request, outparam):
    """The export of `wasi:http/incoming-handler`."""
    contexts.AT_START.copy().run(answer, request, outparam)


def answer(request, outparam):
    environ = heads.environ_of_request()
    given = environ["wsgi.input"] = Input(request)
    response = Response(outparam, environ["REQUEST_METHOD"] == "HEAD")
    try:
        if environ.pop("wasm_serve.length_unknown", None):
            given.measure(environ)
        respond(environ, response)
    except ClientGone:
        response.break_off()
    except BaseException as failure:
        if given.is_broken:
            # Not the application's failure: the server knows what the client is to be told.
            response.break_off()
            if not response.head_sent:
                host.drop(outparam)
        else:
            fail(response, failure)
    given.close()
    response.close()
    host.drop_resource(int(request.finalizer), request.handle)
    streams_of_output.flush()


def respond(environ, response):
    result = APPLICATION(environ, response.start)
    try:
        if type(result) is list and len(result) == 1 and not response.head_sent:
            data = result[0]
            if type(data) is not bytes:
                data = plain(data)
            response.send_whole(response.cut(data))
        else:
            stream(result, response)
    finally:
        if hasattr(result, "close"):
            result.close()


def stream(result, response):
    """Each piece leaves as it comes; the head with the first one that is not empty. What is beyond the length
    that the head says is not asked for (PEP 3333)."""
    for data in result:
        data = plain(data)
        if response.head_sent:
            if response.bodiless:
                return
            if data:
                response.send(response.cut(data))
        elif data:
            data = response.cut(data)
            if is_whole(data, response):
                return response.send_whole(data)
            response.send_head()
            if response.bodiless:
                return
            response.send(data)
        if response.left == 0:
            break
    if response.head_sent:
        response.finish()
    else:
        response.send_whole(b"")


def is_whole(data, response):
    """Whether the head says that this piece is the whole body."""
    return response.length == len(data)


def fail(response, failure):
    """An exception: a 500 if the head has not left, else a transfer that visibly breaks."""
    frames = failure.__traceback__
    ours = __file__.rpartition("/")[0]
    while frames.tb_next and frames.tb_frame.f_code.co_filename.startswith(ours):
        frames = frames.tb_next
    sys.stderr.write("".join(traceback.format_exception(type(failure), failure, frames)))
    # When the transfer breaks, this instance may be gone at once, with what it has not yet written.
    streams_of_output.flush()
    response.break_off()
    if response.head_sent:
        return
    response.status = None
    response.start("500 Internal Server Error", [("content-type", "text/plain")])
    try:
        response.send_whole(b"500 Internal Server Error\n")
    except BaseException:
        # The host answers for us when there is no response.
        traceback.print_exc()
