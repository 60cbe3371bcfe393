"""asyncio's event loop, with timers that are the host's.

A timer set while the loop does not run, as in a WSGI application, is a deferred
call. While it runs (`run_until_complete`, `asyncio.run`), it is an ordinary loop
for coroutines that sleep or wait for sockets, and that blocks the request.
"""

import asyncio
import contextvars
import selectors
import socket
import time
from asyncio import events, selector_events

from wasm_serve import callbacks, host

# What the host takes; it refuses by itself what is too long for it.
SECONDS_MAX = 18e9

deferred = __import__("wit_world.imports.wasm_serve_deferred_types", fromlist=["*"])


class HostTimer(asyncio.TimerHandle):
    """A deferred call. Its time is on the clock of `loop.time()`."""

    __slots__ = ("_id",)

    def __init__(self, identity, when, callback, arguments, context):
        self._id = identity
        self._when = when
        self._callback = callback
        self._args = arguments
        self._cancelled = False
        self._scheduled = True
        self._source_traceback = None
        self._repr = None
        self._context = context
        self._loop = LOOP

    @property
    def id(self):
        """The server's number of the call, for `wasm_serve.cancel` in another request."""
        return self._id

    def cancel(self):
        """Without effect on a call that runs, or has run."""
        if not self._cancelled and cancel(self._id):
            self._cancelled = True
            self._callback = self._args = None

    def _run(self):
        raise NotImplementedError("the server runs this callback")


class Selector(selectors.SelectSelector):
    """Where no socket is waited for, only time is left."""

    def select(self, timeout=None):
        if self.get_map():
            return super().select(timeout)
        if timeout is None:
            raise RuntimeError(
                "the loop waits for something that can never happen: no socket is waited for, and threads and "
                "processes do not exist in a WebAssembly guest"
            )
        if timeout > 0:
            time.sleep(timeout)
        return []


class Loop(selector_events.BaseSelectorEventLoop):
    """What `asyncio.run` and `new_event_loop` get: it runs in the request, and its waits block the request."""

    def __init__(self):
        super().__init__(Selector())

    def _make_self_pipe(self):
        """Nobody else could wake the loop."""

    _close_self_pipe = _write_to_self = _make_self_pipe

    def time(self):
        """Seconds since the Unix epoch: a monotonic clock starts anew in each instance, and the callback
        may run in another one than the request."""
        return time.time()

    def run_in_executor(self, executor, function, *args):
        raise NotImplementedError(
            "threads and processes do not exist in a WebAssembly guest: call the function, or defer it by "
            "loop.call_later(delay, function, *arguments)"
        )

    set_default_executor = run_in_executor

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """In the request: there is no thread that could wait for it."""
        return socket.getaddrinfo(host, port, family, type, proto, flags)

    def _never(self, *args, **options):
        raise NotImplementedError(
            "listening sockets, pipes, processes and signals do not exist for an event loop in a WebAssembly guest"
        )

    create_server = create_unix_connection = create_unix_server = sock_accept = _never
    subprocess_exec = subprocess_shell = connect_read_pipe = connect_write_pipe = _never
    add_signal_handler = remove_signal_handler = getnameinfo = sendfile = sock_sendfile = _never


class HostLoop(Loop):
    """What `get_event_loop` gives. Only while it runs a coroutine are its timers its own."""

    _runs = False

    def call_later(self, delay, callback, *args, context=None):
        if not self._runs:
            if delay is None:
                raise TypeError("delay must not be None")
            return _defer(self.time() + delay, callback, args, context, delay)
        return super().call_later(delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None):
        if not self._runs:
            if when is None:
                raise TypeError("when cannot be None")
            return _defer(when, callback, args, context)
        return super().call_at(when, callback, *args, context=context)

    def call_soon(self, callback, *args, context=None):
        if not self._runs:
            return _defer(self.time(), callback, args, context, 0)
        return super().call_soon(callback, *args, context=context)

    call_soon_threadsafe = call_soon

    def add_reader(self, fd, callback, *args):
        self._check_runs()
        return super().add_reader(fd, callback, *args)

    def add_writer(self, fd, callback, *args):
        self._check_runs()
        return super().add_writer(fd, callback, *args)

    def _check_runs(self):
        if not self._runs:
            raise NotImplementedError(
                "sockets are waited for only while the loop runs: await them in loop.run_until_complete(...)"
            )

    def create_task(self, coro, **options):
        if not self._runs:
            coro.close()
            raise NotImplementedError(
                "a task cannot outlive its request: await it in loop.run_until_complete(...), or defer a function "
                "by loop.call_later(delay, function, *arguments)"
            )
        return super().create_task(coro, **options)

    def run_until_complete(self, future):
        """What the run leaves behind ends with it, but for timers that the program set: those become
        the host's."""
        self._check_running()
        self._runs = True
        # A `stop` outside of a run is not for this one.
        self._stopping = False
        try:
            try:
                return super().run_until_complete(future)
            finally:
                self._cancel_tasks()
                self._close_connections()
        finally:
            self._runs = False
            self._ready.clear()
            self._hand_over_timers()

    def _cancel_tasks(self):
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            super().run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _close_connections(self):
        """Their protocols learn of it in the request that has begun them."""
        transports = list(self._transports.values())
        for transport in transports:
            transport.abort()
        if transports:
            super().run_until_complete(asyncio.sleep(0))
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)

    def _hand_over_timers(self):
        left, self._scheduled = self._scheduled, []
        for timer in left:
            # asyncio's own belong to tasks that have ended, such as `asyncio.sleep`.
            is_the_programs = not (getattr(timer._callback, "__module__", None) or "").startswith("asyncio")
            if is_the_programs and not timer._cancelled:
                _defer(timer._when, timer._callback, timer._args, timer._context)

    def run_forever(self):
        if not self._ready:
            raise NotImplementedError("the server runs the loop: return from the application instead")
        super().run_forever()

    def close(self):
        """There is one for the whole life of an instance."""


def _defer(when, callback, arguments, context, delay=None):
    """A call at a time on the clock of `loop.time()`. The delay, where that was given, is for the host to count: from
    when it has the call. Calls at times start in the order of these, however long each took to become a payload."""
    if context is None:
        context = contextvars.copy_context()
    elif not isinstance(context, contextvars.Context):
        raise TypeError(f"a contextvars.Context is needed, not {context!r}")
    if when != when:
        raise ValueError("a time that is not a number")
    function, seconds = (host.CALL_AT, when) if delay is None else (host.CALL_LATER, delay)
    nanoseconds = int(min(max(seconds, 0), SECONDS_MAX) * 1e9)
    payload = callbacks.payload_of(callback, arguments, context)
    result = host.call_import(function, [nanoseconds, payload.decode("latin-1")])
    if isinstance(result, host.Err):
        raise _refused(result.value)
    return HostTimer(result.value, when, callback, arguments, context)


def is_told(failure, call, callback, arguments, context):
    """Gives the failure of a deferred call to the application's handler, if it has set one."""
    if LOOP.get_exception_handler() is None or not isinstance(failure, Exception):
        return False
    timer = HostTimer(call.id, call.due_at / 1e9, callback, arguments, context or contextvars.copy_context())
    LOOP.call_exception_handler(
        {"message": f"Exception in callback {callback!r}", "exception": failure, "handle": timer}
    )
    return True


def cancel(identity):
    """True if the call with this id will never run."""
    return host.call_import(host.CANCEL, [identity])


def _refused(error):
    """The exception for an error of `call-later`. It has the error's name in the WIT as `error`, and as `limit`
    what comes with it."""
    kind, limit = type(error), error.value
    if kind is deferred.ScheduleError_PayloadTooLarge:
        name = "payload-too-large"
        refused = ValueError(f"callback, arguments and context variables are over {limit} bytes (the server's --deferred-payload)")
    elif kind is deferred.ScheduleError_TooManyPending:
        name = "too-many-pending"
        refused = RuntimeError(
            f"{limit} calls are pending, or scheduled by this one call "
            "(the server's --deferred-pending, --deferred-per-call)"
        )
    elif kind is deferred.ScheduleError_DelayTooLong:
        name = "delay-too-long"
        refused = OverflowError(f"the delay is over {limit / 1e9:g} seconds (the server's --deferred-delay)")
    else:
        name = "unavailable"
        refused = RuntimeError(f"the call cannot be stored now: {limit} (the server's --deferred-memory)")
    refused.error, refused.limit = name, limit
    return refused


LOOP = HostLoop()


class Policy(events._AbstractEventLoopPolicy):
    def get_event_loop(self):
        return LOOP

    def set_event_loop(self, loop):
        pass

    def new_event_loop(self):
        return Loop()


def get_event_loop():
    return running() or LOOP


running = events._get_running_loop


def install():
    """`get_event_loop` goes through three Python functions to a policy; here it is one."""
    events._set_event_loop_policy(Policy())
    asyncio.get_event_loop = events.get_event_loop = get_event_loop
