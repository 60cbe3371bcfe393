"""The bundle of certifi, which `requests` and others name. It is a file of a package, so there is none in a request.
As in distributions that have certifi as a package, it stands for the authorities of the system: the server's."""

import genericpath
import os
import sys

BUNDLES = set()
exists = genericpath.exists


def is_bundle(path):
    if path in BUNDLES:
        return not exists(path)
    certifi = sys.modules.get("certifi")
    return certifi is not None and path == _bundle(certifi)


def _bundle(certifi):
    """Where its own is, whatever a program has put in the place of `where`."""
    return os.path.join(os.path.dirname(certifi.__file__), "cacert.pem")


def note():
    """At the end of the build: programs look whether the file is there before they name it."""
    certifi = sys.modules.get("certifi")
    if certifi is not None:
        BUNDLES.add(_bundle(certifi))
        os.path.exists = genericpath.exists = exists_or_is_bundle


def exists_or_is_bundle(path):
    return exists(path) or (isinstance(path, str) and path in BUNDLES)


exists_or_is_bundle.__name__ = exists_or_is_bundle.__qualname__ = "exists"
exists_or_is_bundle.__doc__ = exists.__doc__
