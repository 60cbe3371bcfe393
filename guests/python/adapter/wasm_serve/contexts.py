"""Context variables: what a call starts with, and what travels with a deferred call.

Each request and each deferred call runs in a context of its own, a copy of the one in which
the application was imported; so nothing that a call sets is seen by another one. The context
in which a call was scheduled travels as its difference from that: by the names of variables,
since a ContextVar is an object of one instance, and their values as pickles.
"""

import contextvars
import decimal
import gc
import os
import pickle
import sys
import types

# What each call starts with: it runs in a copy, `AT_START.copy().run(...)`.
AT_START = contextvars.Context()
# The names by which variables travel, and back. A module's or a class's variable is called by its
# place there, which is the same in each build; any other one by its number in this build.
NAMES = {}
VARIABLES = {}
# `decimal` keeps its context in a variable, too. Its value can be changed in place: where the import
# has set it, each call needs a copy.
DECIMAL_NAME = "decimal"
DECIMAL_AT_START = None
NOTHING = object()


def begin_here():
    """At the end of the build: from now on calls start with what is set here, and what is there can travel."""
    global AT_START, DECIMAL_AT_START
    AT_START = contextvars.copy_context()
    of_decimal = contextvars.Context()
    of_decimal.run(decimal.getcontext)
    for variable in of_decimal:
        _name(variable, DECIMAL_NAME)
        DECIMAL_AT_START = AT_START.get(variable)
    _name_those_of_modules()
    build = os.urandom(8).hex()
    found = {id(thing): thing for thing in _all_variables()}
    for number, variable in enumerate(found.values()):
        _name(variable, f"{variable.name} ({number} of build {build})")


def starting(function):
    """What a call begins with, where `function` is to be run: itself, unless there is a context to copy."""
    if DECIMAL_AT_START is None:
        return function

    def with_a_copy(*arguments):
        decimal.setcontext(DECIMAL_AT_START.copy())
        function(*arguments)

    return with_a_copy


def _name(variable, name):
    if variable not in NAMES:
        NAMES[variable] = name
        VARIABLES[name] = variable


def _name_those_of_modules():
    """The variables of modules and of their classes."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType):
            _name_those_of(module, name + ":")


def _name_those_of(owner, prefix):
    for key, value in list(vars(owner).items()):
        name = prefix + key
        if type(value) is contextvars.ContextVar:
            _name(value, name)
        # Not `isinstance`, which would ask a proxy for what it stands for.
        elif issubclass(type(value), type) and f"{value.__module__}:{value.__qualname__}" == name:
            _name_those_of(value, name + ".")


def _all_variables():
    """What any object refers to: the collector does not list variables themselves."""
    for thing in gc.get_objects():
        for referent in gc.get_referents(thing):
            if type(referent) is contextvars.ContextVar:
                yield referent


def difference(context):
    """What makes the given context of what calls start with: nothing, or whether that has to begin with
    the latter, and pickles of values by the names of variables."""
    if not context and not AT_START:
        return None
    changed = [(variable, value) for variable, value in context.items() if AT_START.get(variable, NOTHING) is not value]
    is_more = not AT_START or all(variable in context for variable in AT_START)
    if is_more and not changed:
        return None
    values = {}
    for variable, value in changed if is_more else context.items():
        name = _name_of(variable)
        if name == DECIMAL_NAME:
            value = value.copy()
            value.clear_flags()
            # Arithmetic sets it, to what it is in a call that starts.
            if is_more and _settings(value) == _settings(DECIMAL_AT_START or decimal.DefaultContext):
                continue
        pickled = _pickled(variable, value, name)
        if pickled is not None:
            values[name] = pickled
    return (is_more, values) if values or not is_more else None


def _settings(context):
    """All of a decimal context but the flags that were raised in it."""
    return (
        context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp, context.traps
    )


def _name_of(variable):
    name = NAMES.get(variable)
    if name is None:
        # One that was made in a request.
        _name_those_of_modules()
        name = NAMES.get(variable)
    return name


def _pickled(variable, value, name):
    """None for a variable without a default whose value cannot travel: to read it is an error then, as it is
    where it was never set. Frameworks keep their request in such."""
    reason = "no module or class has had it since the application was imported"
    if name is not None:
        try:
            return pickle.dumps(value, 5)
        except Exception as failure:
            reason = f"its value cannot be pickled ({failure})"
        try:
            import cloudpickle

            return cloudpickle.dumps(value)
        except Exception:
            pass
    try:
        contextvars.Context().run(variable.get)
    except LookupError:
        return None
    raise TypeError(
        f"the context variable {variable.name!r} cannot travel with a deferred call: {reason}. "
        "Schedule the call in a context without it, such as context=contextvars.Context()"
    )


def context_with(difference):
    """The context that had the difference, made of that of a call which starts."""
    is_more, values = difference
    context = contextvars.copy_context() if is_more else contextvars.Context()
    for name, pickled in values.items():
        try:
            context.run(_variable(name).set, pickle.loads(pickled))
        except Exception as failure:
            raise RuntimeError(
                f"the context variable {name!r}, set where the call was scheduled, cannot be set again: {failure}"
            ) from failure
    return context


def _variable(name):
    variable = VARIABLES.get(name)
    if variable is None:
        module, _, path = name.partition(":")
        owner = sys.modules.get(module)
        for part in path.split("."):
            owner = getattr(owner, part, None)
        if type(owner) is not contextvars.ContextVar:
            raise LookupError("this instance has no such variable")
        variable = owner
        _name(variable, name)
    return variable
