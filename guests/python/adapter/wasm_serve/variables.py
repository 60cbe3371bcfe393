"""Variables of the environment while the component is built: those that the server has for its requests.

What the application makes of one at its import stays in the component. So those that it asks for
are noted, by the sums of their values: where one has another value, the component does not fit.
What the import itself puts into the environment is there in each instance, as it is in a process.
"""

import contextlib
import hashlib
import os

# What was asked for: a name, and the SHA-256 sum of its value, or "missing".
NOTED = {}
MISSING = "missing"
# In the place of a name, which it cannot be: all names were asked for.
ALL = "="
# What the import has put into the environment; None for what it has taken out.
CHANGED = {}


class Noting(dict):
    """What is behind `os.environ` and `os.environb`: bytes by bytes."""

    def __getitem__(self, name):
        self._note(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self._note(name)
        return super().__contains__(name)

    def __iter__(self):
        self._note_all()
        return super().__iter__()

    def __len__(self):
        self._note_all()
        return super().__len__()

    def __setitem__(self, name, value):
        CHANGED[name] = value
        super().__setitem__(name, value)

    def __delitem__(self, name):
        self._note(name)
        super().__delitem__(name)
        CHANGED[name] = None

    def _note(self, name):
        # What the import itself has put there is not the server's.
        if name not in CHANGED:
            value = self.get(name)
            # The host takes no lone surrogates.
            text = name.decode("utf-8", "backslashreplace")
            NOTED.setdefault(text, MISSING if value is None else hashlib.sha256(value).hexdigest())

    def _note_all(self):
        NOTED[ALL] = MISSING
        for name in self.keys():
            self._note(name)


def watch(given):
    """Before anything of the application is imported, which may look at them."""
    os.environ.update(given)
    _be_behind(Noting(os.environ._data))


def let_go():
    """After the application was imported: what it asked for. An instance begins without any."""
    _be_behind(dict(os.environ._data.items()))
    # With those that the C library has.
    os.environ.clear()
    return NOTED


@contextlib.contextmanager
def unnoted():
    noting = os.environ._data
    _be_behind(dict(noting.items()))
    try:
        yield
    finally:
        _be_behind(noting)


def _be_behind(data):
    os.environ._data = os.environb._data = data


def set_again(given):
    """In each instance: the server's variables, and what the import has changed."""
    for name, value in given:
        os.environ[name] = value
    for name, value in CHANGED.items():
        if value is not None:
            os.environb[name] = value
        else:
            os.environb.pop(name, None)
