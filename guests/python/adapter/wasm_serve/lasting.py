"""What lasts as long as an instance: see `host/src/python/snapshot.rs`."""

import gc
import sys
import types

# Who refers to such an object cannot learn when it ends, but by a weak reference, for some.
KINDS = {
    str, bytes, int, float, complex, type, property, classmethod, staticmethod, types.CodeType, types.FunctionType,
    types.BuiltinFunctionType, types.ModuleType, types.MethodDescriptorType, types.WrapperDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType,
}  # fmt: skip


def places():
    """The addresses of all such objects that modules lead to."""
    found, seen = [], set()
    left = list(sys.modules.values())
    while left:
        thing = left.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            if type(thing) in KINDS or issubclass(type(thing), type):
                found.append(id(thing))
            left += gc.get_referents(thing)
            if type(thing) is types.CodeType:
                # The collector does not know what it refers to.
                left += thing.co_consts, thing.co_names, thing.co_name, thing.co_qualname, thing.co_filename
                left += thing.co_linetable, thing.co_exceptiontable
    return found
