"""A callback as bytes, and its run.

A payload is a pickle: of the callback itself, or of the pair (callback, arguments), or of
these and what the context had in which it was scheduled. A callback is never a tuple, so
they can be told apart.
"""

import inspect
import pickle
import sys
import traceback
from types import FunctionType

from wasm_serve import contexts, loop, streams_of_output
from wasm_serve.host import Err

# Of module-level functions, whose pickle is their name. Most programs defer few of them.
PAYLOADS = {}
CALLBACKS = {}
CACHED_MAX = 1000


def payload_of(callback, arguments, context):
    difference = contexts.difference(context)
    is_bare_function = not arguments and difference is None and type(callback) is FunctionType
    if is_bare_function and callback in PAYLOADS:
        return PAYLOADS[callback]
    if not callable(callback):
        raise TypeError(f"a callable is needed, not {callback!r}")
    if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__):
        raise TypeError(
            f"coroutines cannot be deferred, and {callback!r} gives one: defer a function that runs it by asyncio.run"
        )
    if difference is not None:
        state = callback, arguments, difference
    else:
        state = (callback, arguments) if arguments else callback
    try:
        # The oldest binary protocol that names a function in one step is the shortest for that.
        payload = pickle.dumps(state, 2 if state is callback else 5)
    except Exception as reason:
        return _payload_by_value(state, callback, reason)
    if is_bare_function and len(PAYLOADS) < CACHED_MAX:
        PAYLOADS[callback] = payload
    return payload


def _payload_by_value(state, callback, reason):
    """Lambdas, closures and nested functions travel with their code."""
    try:
        import cloudpickle
    except ImportError:
        raise TypeError(f"{callback!r} cannot be deferred without cloudpickle: {reason}") from reason
    try:
        return cloudpickle.dumps(state)
    except Exception as reason:
        raise TypeError(
            f"{callback!r} cannot be deferred, since it, its arguments or what it refers to cannot be pickled "
            f"({reason}). It runs later, perhaps in another instance: pass names and values instead of open "
            "files, generators, locks or the request"
        ) from reason


def run(call):
    """The export `callback`. An error string is logged and counted by the host."""
    contexts.AT_START.copy().run(run_call, call)


def run_call(call):
    callback = CALLBACKS.get(call.payload)
    arguments, context = (), None
    try:
        if callback is not None:
            callback()
        else:
            callback, arguments, context = _unpacked(call.payload)
            if context is None:
                callback(*arguments)
            else:
                context.run(callback, *arguments)
    except BaseException as failure:
        if not loop.is_told(failure, call, callback, arguments, context):
            frames = failure.__traceback__.tb_next or failure.__traceback__
            sys.stderr.write("".join(traceback.format_exception(type(failure), failure, frames)))
        text = "".join(traceback.format_exception_only(failure)).strip()
        # The host takes no lone surrogates.
        text = text.encode("utf-8", "backslashreplace").decode()
        raise Err(text) from None
    finally:
        streams_of_output.flush()


def _unpacked(payload):
    """The callback, its arguments, and the context to run it in, if that is another one."""
    state = pickle.loads(payload)
    if type(state) is tuple:
        callback, arguments, *difference = state
        return callback, arguments, contexts.context_with(*difference) if difference else None
    if type(state) is FunctionType and len(payload) < 256 and len(CALLBACKS) < CACHED_MAX:
        _keep(payload, state)
    return state, (), None


def _keep(payload, function):
    """Only what is found by its name: a function that travelled by value may change its own globals."""
    if getattr(sys.modules.get(function.__module__), function.__name__, None) is function:
        CALLBACKS[payload] = function
