"""A package with a template, found on the path given by --pythonpath."""

TIMES = 3
