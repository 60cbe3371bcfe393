"""Chance that is made in each instance, and not once for all in the build.

`os.urandom`, `secrets` and `uuid4` ask the host each time. A `random.Random` is numbers in
memory, so all instances would go on with those of the build.
"""

import random
import tempfile
import weakref

seed_of_library = random.Random.seed
# Generators that were seeded by chance while the application was imported. One with a seed of the
# application's keeps it.
BY_CHANCE = weakref.WeakValueDictionary()


def watch():
    """Before the application is imported."""
    random.Random.seed = _noting_seed


def _noting_seed(generator, a=None, version=2):
    if a is None:
        BY_CHANCE[id(generator)] = generator
    else:
        BY_CHANCE.pop(id(generator), None)
    seed_of_library(generator, a, version)


def let_go():
    """At the end of the build."""
    random.Random.seed = seed_of_library
    # Names of temporary files come from a generator, too.
    tempfile._name_sequence = None


def seed_all():
    """In each instance."""
    random.seed()
    for generator in BY_CHANCE.values():
        generator.seed()
