"""A callback as bytes, and its run.

A payload is a pickle: of the callback itself, or of the pair (callback, arguments), or of
these and what the context had in which it was scheduled. A callback is never a tuple, so
they can be told apart.
"""

import pickle
import sys
import traceback
from types import FunctionType

from wasm_serve import contexts, streams_of_output

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
    contexts.AT_START.copy().run(run_payload, call.payload)


def run_payload(payload):
    try:
        callback = CALLBACKS.get(payload)
        if callback is not None:
            callback()
        else:
            state = pickle.loads(payload)
            if type(state) is tuple:
                callback, arguments, *difference = state
                if difference:
                    contexts.context_with(*difference).run(callback, *arguments)
                else:
                    callback(*arguments)
            else:
                if type(state) is FunctionType and len(payload) < 256 and len(CALLBACKS) < CACHED_MAX:
                    _keep(payload, state)
                state()
    except BaseException as failure:
        frames = failure.__traceback__.tb_next or failure.__traceback__
        sys.stderr.write("".join(traceback.format_exception(type(failure), failure, frames)))
        text = "".join(traceback.format_exception_only(failure)).strip()
        # The host takes no lone surrogates.
        text = text.encode("utf-8", "backslashreplace").decode()
        from componentize_py_types import Err

        raise Err(text) from None
    finally:
        streams_of_output.flush()


def _keep(payload, function):
    """Only what is found by its name: a function that travelled by value may change its own globals."""
    if getattr(sys.modules.get(function.__module__), function.__name__, None) is function:
        CALLBACKS[payload] = function
