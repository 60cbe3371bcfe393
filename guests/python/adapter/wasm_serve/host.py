"""The host's functions by their numbers, without the generated classes around them.

componentize-py generates a class for each resource, with a `weakref.finalize` for
each object, and a Python function around each import. Both cost more than the call.
Here an import is its number in `call_import`, found out by calling the generated
function once, and a resource is two slots, dropped by whoever holds it.

No list of bytes may go to the host, since the runtime never frees it. Bytes go as text,
a character each: that is what `data.decode("latin-1")` is.
"""

import contextlib
import weakref

import componentize_py_runtime as runtime
import componentize_py_types as components
from componentize_py_types import Err


class Success(StopIteration):
    """In the place of the generated `Ok`: one `value`, set without a Python call."""

    __match_args__ = ("value",)


# Before the generated modules take it from there.
components.Ok = Success

from wit_world.imports import host as gateway
from wit_world.imports import environment, poll, streams, timers, tls
from wit_world.imports import wasi_http_types as http

call_import = runtime.call_import
drop_resource = runtime.drop_resource


class _Number(BaseException):
    pass


def _number(function, parameters):
    def tell(number, _):
        raise _Number(number)

    runtime.call_import = tell
    try:
        function(*[None] * parameters)
    except _Number as told:
        return told.args[0]
    finally:
        runtime.call_import = call_import


REQUEST = _number(gateway.request, 0)
RESPOND = _number(gateway.respond, 3)
CONSUME = _number(http.IncomingRequest.consume, 1)
FIELDS = _number(gateway.make_fields, 1)
RESPONSE = _number(http.OutgoingResponse.__init__, 2)
SET_STATUS = _number(http.OutgoingResponse.set_status_code, 2)
BODY = _number(http.OutgoingResponse.body, 1)
SET_RESPONSE = _number(http.ResponseOutparam.set, 2)
BODY_WRITE = _number(http.OutgoingBody.write, 1)
BODY_FINISH = _number(http.OutgoingBody.finish, 2)
CHECK_WRITE = _number(streams.OutputStream.check_write, 1)
WRITE = _number(gateway.write, 2)
SUBSCRIBE = _number(streams.OutputStream.subscribe, 1)
BLOCK = _number(poll.Pollable.block, 1)
BODY_STREAM = _number(http.IncomingBody.stream, 1)
READ = _number(streams.InputStream.blocking_read, 2)
CALL_LATER = _number(gateway.call_later, 2)
CALL_AT = _number(gateway.call_at, 2)
CANCEL = _number(timers.cancel, 1)
ENVIRONMENT = _number(environment.get_environment, 0)
TLS_BEGIN = _number(tls.Connection.begin, 1)
TLS_FEED = _number(tls.Connection.feed, 2)
TLS_TAKE = _number(tls.Connection.take, 1)
TLS_READ = _number(tls.Connection.read, 2)
TLS_WRITE = _number(tls.Connection.write, 2)
TLS_END = _number(tls.Connection.end, 1)
TLS_FACTS = _number(tls.Connection.facts, 1)


@contextlib.contextmanager
def left_out():
    """While an application is imported there is no host, but for WASI's."""

    def refuse(*arguments):
        raise RuntimeError("this can be done in a request, not while the component is built")

    global call_import
    call_import = refuse
    try:
        yield
    finally:
        call_import = runtime.call_import


class Resource:
    """A handle of the host's. Who holds it must `drop` it, or pass it on: then `finalizer` is `PASSED`."""

    __slots__ = ("handle", "finalizer")


class Passed:
    """The finalizer of a resource that the host takes over: the runtime calls `detach`."""

    detach = staticmethod(tuple)


PASSED = Passed()


def install():
    """Puts the above where the runtime looks once, after the program was imported."""
    give_once(weakref, "finalize", keep_kind)
    for kind in "Fields IncomingRequest IncomingBody OutgoingResponse OutgoingBody ResponseOutparam".split():
        setattr(http, kind, type(kind, (Resource,), {"__slots__": ()}))
    others = (streams, "InputStream"), (streams, "OutputStream"), (poll, "Pollable"), (tls, "Connection")
    for module, kind in others:
        setattr(module, kind, type(kind, (Resource,), {"__slots__": ()}))


# For each resource the runtime calls `weakref.finalize(resource, drop_resource, kind, handle)`. Keeping the
# kind, as text, is all that `drop` needs; this does it in C.
keep_kind = "{2}".format


def give_once(module, name, replacement):
    """Whoever next asks the module for `name` gets the replacement, and everyone after that the module's own."""
    original = getattr(module, name)

    def give(asked):
        if asked != name:
            raise AttributeError(f"module {module.__name__!r} has no attribute {asked!r}", name=asked, obj=module)
        del module.__getattr__
        setattr(module, name, original)
        return replacement

    delattr(module, name)
    module.__getattr__ = give


def drop(resource):
    drop_resource(int(resource.finalizer), resource.handle)
