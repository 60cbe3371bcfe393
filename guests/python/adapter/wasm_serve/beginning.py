"""The beginning of an instance: what it does before its first call."""

import random

from wasm_serve import chance, host, variables


def install():
    """At the end of the build. The runtime asks for `random.seed` then, and calls in each instance what it gets,
    when it has put the server's variables into `os.environ`."""
    host.give_once(random, "seed", begin)


def begin():
    chance.seed_all()
    variables.set_again()
