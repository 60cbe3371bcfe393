"""What CPython's `ssl` is made of: in a process OpenSSL, here the server's TLS (`wasm-serve:gateway/tls`).

The numbers are OpenSSL's, so that `ssl` and the programs above it find what they know. What of it cannot be done
raises when it is asked for.
"""

import os

from wasm_serve.certificates import Certificate, ENCODING_DER, ENCODING_PEM
from wasm_serve.tls_connection import MemoryBIO, SSLSession
from wasm_serve.tls_connection import Connection as _SSLSocket
from wasm_serve.tls_context import Context as _SSLContext
from wasm_serve.tls_errors import (
    SSLCertVerificationError,
    SSLEOFError,
    SSLError,
    SSLSyscallError,
    SSLWantReadError,
    SSLWantWriteError,
    SSLZeroReturnError,
)

# The version says what `ssl` can be asked for. Programs look at its beginning.
OPENSSL_VERSION = "OpenSSL 3.0.0 (as far as rustls, of the server, can do it)"
OPENSSL_VERSION_NUMBER = 0x30000000
OPENSSL_VERSION_INFO = _OPENSSL_API_VERSION = (3, 0, 0, 0, 0)
_DEFAULT_CIPHERS = "DEFAULT"

HAS_SNI = HAS_ECDH = HAS_ALPN = HAS_TLSv1_2 = HAS_TLSv1_3 = True
HAS_NPN = HAS_SSLv2 = HAS_SSLv3 = HAS_TLSv1 = HAS_TLSv1_1 = HAS_PSK = HAS_PHA = HAS_TLS_UNIQUE = False
HAS_PSK_TLS13 = False

CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED = 0, 1, 2

PROTOCOL_TLS = PROTOCOL_SSLv23 = 2
PROTOCOL_TLSv1, PROTOCOL_TLSv1_1, PROTOCOL_TLSv1_2 = 3, 4, 5
PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER = 16, 17

PROTO_MINIMUM_SUPPORTED, PROTO_MAXIMUM_SUPPORTED = -2, -1
PROTO_SSLv3, PROTO_TLSv1, PROTO_TLSv1_1, PROTO_TLSv1_2, PROTO_TLSv1_3 = range(0x300, 0x305)

OP_NO_SSLv2 = OP_SINGLE_DH_USE = OP_SINGLE_ECDH_USE = 0
OP_ALL = 0x80000050
OP_NO_SSLv3, OP_NO_TLSv1, OP_NO_TLSv1_2, OP_NO_TLSv1_1, OP_NO_TLSv1_3 = (1 << bit for bit in range(25, 30))
OP_LEGACY_SERVER_CONNECT = 0x4
OP_IGNORE_UNEXPECTED_EOF = 0x80
OP_NO_TICKET = 0x4000
OP_NO_COMPRESSION = 0x20000
OP_ENABLE_MIDDLEBOX_COMPAT = 0x100000
OP_CIPHER_SERVER_PREFERENCE = 0x400000
OP_NO_RENEGOTIATION = 0x40000000

VERIFY_DEFAULT = 0
VERIFY_CRL_CHECK_LEAF, VERIFY_CRL_CHECK_CHAIN = 0x4, 0xC
VERIFY_X509_STRICT = 0x20
VERIFY_ALLOW_PROXY_CERTS = 0x40
VERIFY_X509_TRUSTED_FIRST = 0x8000
VERIFY_X509_PARTIAL_CHAIN = 0x80000

HOSTFLAG_ALWAYS_CHECK_SUBJECT, HOSTFLAG_NO_WILDCARDS, HOSTFLAG_NO_PARTIAL_WILDCARDS = 1, 2, 4
HOSTFLAG_MULTI_LABEL_WILDCARDS, HOSTFLAG_SINGLE_LABEL_SUBDOMAINS, HOSTFLAG_NEVER_CHECK_SUBJECT = 8, 16, 32

SSL_ERROR_SSL, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_WANT_X509_LOOKUP = 1, 2, 3, 4
SSL_ERROR_SYSCALL, SSL_ERROR_ZERO_RETURN, SSL_ERROR_WANT_CONNECT, SSL_ERROR_EOF = 5, 6, 7, 8
SSL_ERROR_INVALID_ERROR_CODE = 10

# RFC 8446, 6.
ALERTS = """
    0 CLOSE_NOTIFY 10 UNEXPECTED_MESSAGE 20 BAD_RECORD_MAC 22 RECORD_OVERFLOW 30 DECOMPRESSION_FAILURE
    40 HANDSHAKE_FAILURE 42 BAD_CERTIFICATE 43 UNSUPPORTED_CERTIFICATE 44 CERTIFICATE_REVOKED 45 CERTIFICATE_EXPIRED
    46 CERTIFICATE_UNKNOWN 47 ILLEGAL_PARAMETER 48 UNKNOWN_CA 49 ACCESS_DENIED 50 DECODE_ERROR 51 DECRYPT_ERROR
    70 PROTOCOL_VERSION 71 INSUFFICIENT_SECURITY 80 INTERNAL_ERROR 90 USER_CANCELLED 100 NO_RENEGOTIATION
    110 UNSUPPORTED_EXTENSION 111 CERTIFICATE_UNOBTAINABLE 112 UNRECOGNIZED_NAME 113 BAD_CERTIFICATE_STATUS_RESPONSE
    114 BAD_CERTIFICATE_HASH_VALUE 115 UNKNOWN_PSK_IDENTITY
""".split()
globals().update({f"ALERT_DESCRIPTION_{name}": int(number) for number, name in zip(ALERTS[::2], ALERTS[1::2])})

# Those that `ssl` itself asks for: its purposes.
OBJECTS = [
    (129, "serverAuth", "TLS Web Server Authentication", "1.3.6.1.5.5.7.3.1"),
    (130, "clientAuth", "TLS Web Client Authentication", "1.3.6.1.5.5.7.3.2"),
]


def txt2obj(txt, name=False):
    for known in OBJECTS:
        if txt == known[3] or (name and txt in known[1:3]):
            return known
    raise ValueError(f"unknown object {txt[:100]!r}")


def nid2obj(nid):
    for known in OBJECTS:
        if nid == known[0]:
            return known
    raise ValueError(f"unknown NID {nid}")


def get_default_verify_paths():
    """The authorities are the server's, which no path of this guest leads to."""
    return "SSL_CERT_FILE", "", "SSL_CERT_DIR", ""


def RAND_status():
    return True


def RAND_add(string, entropy, /):
    """Chance is the server's, and needs none of ours."""


def RAND_bytes(n, /):
    return os.urandom(n)
