"""Modules that programs import late: what is not in memory at the end of the build is missing at run time."""

import importlib
import sys

NAMES = """
    encodings.idna encodings.latin_1 encodings.ascii encodings.utf_8 encodings.utf_8_sig encodings.utf_16
    encodings.cp1252 encodings.iso8859_15 encodings.punycode encodings.raw_unicode_escape
    asyncio cloudpickle contextvars copy csv datetime decimal email email.message email.mime.text
    email.mime.multipart email.utils fractions functools glob hashlib heapq hmac html html.parser http.cookies
    io itertools json logging logging.handlers mimetypes operator pathlib pickle pprint queue random secrets
    shutil ssl statistics string stringprep struct tempfile textwrap traceback unicodedata urllib.parse uuid
    wsgiref.util wsgiref.validate _strptime zoneinfo zlib gzip
""".split()

# What packages import when they are first used.
OF_PACKAGES = [
    ("httpx", "httpcore"),
    ("httpx", "certifi"),
    ("anyio", "anyio._backends._asyncio"),
]


def of_packages():
    """Imports what the packages need that an application has imported."""
    for package, name in OF_PACKAGES:
        if package in sys.modules:
            _import(name)


def _import(name):
    try:
        importlib.import_module(name)
    except ImportError:
        # Some are missing in a WebAssembly interpreter; a program that needs one fails by itself.
        pass


for name in NAMES:
    _import(name)
