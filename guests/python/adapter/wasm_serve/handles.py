"""What belongs to the host while the component is built: files, folders, sockets, the network.

Each of it is gone in the instances that start with what is in memory at the end of the
build. There a number of a file is given to the next file that is opened, so one that was
left open would read and write that one; and a handle inside of the C library ends the
instance when it is used. So none is left: what is open is closed, and what the C library
would keep for itself is refused.
"""

import _io
import _socket
import errno
import gc
import os
import posix
import socket
import sqlite3

# The C library asks for the network when one of these is first called, and keeps it for ever.
METHODS = "bind connect connect_ex listen sendto".split()
LOOKUPS = "getaddrinfo gethostbyaddr gethostbyname gethostbyname_ex getnameinfo".split()
NUMBERS_MAX = 1024

# Those of folders that are listed, which the collector does not know; none after the build.
LISTINGS = []
# What was there before, by the places from which it was taken.
REPLACED = {}
OPEN_AT_START = set()


def watch():
    """Before the application is imported."""
    OPEN_AT_START.update(_open_numbers())
    for name in METHODS:
        # The class inherits them, so they are back as soon as these are gone.
        setattr(socket.socket, name, _refuse_socket)
    for name in LOOKUPS:
        _replace(_socket, name, _refusing_lookup(getattr(_socket, name)))
    # A plain one has no class whose methods could be set; `socket.socket` itself is made of `_socket.socket`.
    _replace(_socket, "SocketType", socket.socket)
    _replace(posix, "scandir", scandir)


def _replace(module, name, replacement):
    """Puts it in the place of a function wherever the library has that function."""
    original = getattr(module, name)
    for place in (module, socket if module is _socket else os):
        if getattr(place, name, None) is original:
            REPLACED[place, name] = original
            # As built-in functions, and unlike other ones, they become no methods where a class has them.
            setattr(place, name, replacement if isinstance(replacement, type) else staticmethod(replacement))


def _refuse_socket(*arguments):
    raise PermissionError(errno.EACCES, "sockets cannot be used while the component is built")


def _refusing_lookup(lookup):
    """A module may have taken it by `from socket import ...`: after the build it is what it stands for."""

    def refusing(*arguments, **named):
        if LISTINGS is None:
            return lookup(*arguments, **named)
        raise socket.gaierror(socket.EAI_AGAIN, "names cannot be looked up while the component is built")

    refusing.__name__ = refusing.__qualname__ = lookup.__name__
    refusing.__doc__ = lookup.__doc__
    return refusing


def scandir(path="."):
    listing = REPLACED[posix, "scandir"](path)
    if LISTINGS is not None:
        LISTINGS.append(listing)
    return listing


def let_go():
    """After the application was imported: closes what it left open. To use that later is an exception."""
    global LISTINGS
    for name in METHODS:
        delattr(socket.socket, name)
    for (place, name), original in REPLACED.items():
        setattr(place, name, original)
    for listing in LISTINGS:
        listing.close()
    LISTINGS = None
    # What nobody refers to closes itself.
    gc.collect()
    # A stream before the one that it writes to.
    kinds = sqlite3.Cursor, sqlite3.Connection, _io.TextIOWrapper, _io._BufferedIOBase, _io._IOBase, socket.socket
    # Not all objects: a statement that is referred to keeps its database open. And by their types: `isinstance`
    # would ask proxies for what they stand for.
    left = [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
    for kind in kinds:
        for thing in left:
            if issubclass(type(thing), kind) and _is_the_hosts(thing):
                _close(thing)
    numbers = _open_numbers() - OPEN_AT_START
    if numbers:
        raise RuntimeError(
            f"descriptors were left open by their numbers, as os.open gives them: {sorted(numbers)}. They would be "
            "those of other files in a request: open them there"
        )


def _is_the_hosts(thing):
    """Whether it is more than memory, and not a standard stream, nor closed."""
    try:
        if isinstance(thing, sqlite3.Cursor):
            return _is_the_hosts(thing.connection)
        if isinstance(thing, sqlite3.Connection):
            return _has_file(thing)
        return thing.fileno() > 2
    except Exception:
        return False


def _has_file(connection):
    try:
        cursor = sqlite3.Cursor(connection)
        cursor.row_factory = None
        return any(file for _, _, file in cursor.execute("PRAGMA database_list"))
    except sqlite3.ProgrammingError:
        # It is closed.
        return False
    except sqlite3.Error:
        # What is in its file is no database.
        return True


def _close(thing):
    try:
        thing.close()
    except Exception:
        # What was to be written at last cannot be; it is closed nevertheless.
        pass


def _open_numbers():
    numbers = set()
    for number in range(3, NUMBERS_MAX):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                continue
        numbers.add(number)
    return numbers
