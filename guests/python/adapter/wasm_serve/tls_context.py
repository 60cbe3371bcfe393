"""Contexts of `ssl`: what its connections shall be like. They ask nothing of the server, so they can be made while
the component is built, and go on in its instances."""

import os
import re
import time

from wasm_serve import authorities, certificates, tls_connection
from wasm_serve.tls_errors import failed

NONE, OPTIONAL, REQUIRED = range(3)
CLIENT, SERVER = 16, 17
# What can be spoken, by its number in contexts that speak no other: all, TLS 1.2, the client's side, the server's.
PROTOCOLS = {2, 5, CLIENT, SERVER}
TLS_1_2, TLS_1_3 = 0x303, 0x304
VERSIONS = range(0x300, 0x305)
LEAST, MOST = -2, -1
NO_TLS_1_2, NO_TLS_1_3 = 1 << 27, 1 << 29
# What OpenSSL has in each.
OPTIONS = 0x80000050 | 0x2000000 | 0x20000 | 0x100000 | 0x400000
CHECKS_OF_LISTS = 0xC
TRUSTED_FIRST = 0x8000
# What can be asked for in the place of a list of ciphers: none of them leaves out one that the server has, which
# are those of TLS 1.3, and of TLS 1.2 those with ECDHE and either AES-GCM or ChaCha20.
ALL_CIPHERS = {"DEFAULT", "ALL", "COMPLEMENTOFDEFAULT", "HIGH", "ECDHE", "ECDH", "EECDH"}
GOOD_CIPHERS = {"AES", "AESGCM", "AES128", "AES256", "CHACHA20", "ECDHE", "ECDH", "EECDH", "HIGH", "AECDSA", "ARSA"}
SUITES = [
    f"ECDHE-{kind}-{cipher}"
    for kind in ("ECDSA", "RSA")
    for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305")
]
HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
SUITES_OF_1_3 = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"]


def no(what):
    return NotImplementedError(f"{what}: TLS in a WebAssembly guest is the server's, which cannot do it")


class Context:
    post_handshake_auth = None
    session_stats = num_tickets = security_level = 0

    def __new__(cls, protocol):
        if protocol not in PROTOCOLS:
            raise ValueError("invalid or unsupported protocol version")
        self = super().__new__(cls)
        self._protocol = protocol
        self._options, self._verify_flags = OPTIONS, TRUSTED_FIRST
        self._verify_mode, self._check_hostname = (REQUIRED, True) if protocol == CLIENT else (NONE, False)
        self._minimum, self._maximum = (TLS_1_2, TLS_1_2) if protocol == 5 else (TLS_1_2, MOST)
        self._host_flags = 4
        # What is believed: the server's authorities, and certificates (PEM), each once.
        self._with_system, self._authorities = False, {}
        self._identity, self._protocols = "", ""
        return self

    def __reduce__(self):
        # It may have a private key.
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    @property
    def protocol(self):
        return self._protocol

    @property
    def options(self):
        return self._options

    @options.setter
    def options(self, value):
        self._options = int(value)

    @property
    def verify_flags(self):
        return self._verify_flags

    @verify_flags.setter
    def verify_flags(self, value):
        if value & CHECKS_OF_LISTS:
            raise no("lists of revoked certificates (VERIFY_CRL_CHECK_LEAF, VERIFY_CRL_CHECK_CHAIN)")
        self._verify_flags = int(value)

    @property
    def verify_mode(self):
        return self._verify_mode

    @verify_mode.setter
    def verify_mode(self, value):
        if value not in (NONE, OPTIONAL, REQUIRED):
            raise ValueError("invalid value for verify_mode")
        if value == NONE and self._check_hostname:
            raise ValueError("Cannot set verify_mode to CERT_NONE when check_hostname is enabled.")
        self._verify_mode = int(value)

    @property
    def check_hostname(self):
        return self._check_hostname

    @check_hostname.setter
    def check_hostname(self, value):
        self._check_hostname = bool(value)
        if value and self._verify_mode == NONE:
            self._verify_mode = REQUIRED

    @property
    def minimum_version(self):
        return self._minimum

    @minimum_version.setter
    def minimum_version(self, value):
        self._minimum = _version(value)

    @property
    def maximum_version(self):
        return self._maximum

    @maximum_version.setter
    def maximum_version(self, value):
        self._maximum = _version(value)

    @property
    def sni_callback(self):
        return None

    @sni_callback.setter
    def sni_callback(self, value):
        if value is not None:
            raise no("a server's side (sni_callback)")

    @property
    def _msg_callback(self):
        return None

    @_msg_callback.setter
    def _msg_callback(self, value):
        if value is not None:
            raise no("telling of each message (_msg_callback)")

    def set_ciphers(self, ciphers, /):
        """All that the server has are strong, so a text that leaves out none of them, or only names them, is as
        good as no text."""
        names = [name for name in ciphers.replace(",", ":").replace(" ", ":").split(":") if name]
        wanted = [name for name in names if name[0] not in "!-@+"]
        if set(SUITES) <= set(wanted) or any(name.upper() in ALL_CIPHERS for name in wanted):
            refused = [name for name in names if name[0] in "!-" and name[1:].upper() in GOOD_CIPHERS]
            refused += [name for name in names if name[0] in "!-" and name[1:] in SUITES]
        else:
            refused = wanted
            # As lists in the manner of `ECDH+AESGCM:ECDH+CHACHA20` have them.
            if {"ECDH+AESGCM", "ECDH+CHACHA20"} <= {name.replace("ECDHE", "ECDH") for name in wanted}:
                refused = []
        if not names or (names and not wanted):
            raise failed("NO_CIPHER_MATCH", "No cipher can be selected.")
        if refused:
            raise no(f"a choice of ciphers ({', '.join(refused[:3])}); those are {':'.join(SUITES)}, or DEFAULT")

    def get_ciphers(self):
        versions = [*(["TLSv1.3"] * len(SUITES_OF_1_3)), *(["TLSv1.2"] * len(SUITES))]
        return [
            {"name": name, "protocol": version, "strength_bits": 128 if "128" in name else 256, "aead": True}
            for name, version in zip([*SUITES_OF_1_3, *SUITES], versions)
        ]

    def _set_alpn_protocols(self, protocols, /):
        self._protocols = bytes(protocols).decode("latin-1")

    def set_default_verify_paths(self):
        """As OpenSSL does, whose variables name others in the place of the system's."""
        file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        if not file and not folder:
            self._with_system = True
        if file and os.path.exists(file):
            self.load_verify_locations(cafile=file)
        if folder and os.path.isdir(folder):
            self.load_verify_locations(capath=folder)

    def load_verify_locations(self, cafile=None, capath=None, cadata=None):
        if cafile is None and capath is None and cadata is None:
            raise TypeError("cafile, capath and cadata cannot be all omitted")
        if cafile is not None:
            if authorities.is_bundle(cafile):
                self._with_system = True
            else:
                self._believe(certificates.from_file(cafile))
        if capath is not None:
            # As `openssl rehash` names them: other files there are not believed.
            for name in sorted(os.listdir(capath)):
                if HASHED.fullmatch(name):
                    self._believe(certificates.from_file(os.path.join(capath, name), is_needed=False))
        if cadata is not None:
            self._believe(certificates.from_data(cadata))

    def _believe(self, found):
        for certificate in found:
            self._authorities[certificate] = certificates.authority(certificate)

    def cert_store_stats(self):
        """Of those that were named: how many others the server has is not known."""
        count = len(self._authorities)
        return {"x509": count, "crl": 0, "x509_ca": count}

    def get_ca_certs(self, binary_form=False):
        return [certificate if binary_form else certificates.decoded(certificate) for certificate in self._authorities]

    def load_cert_chain(self, certfile, keyfile=None, password=None):
        """Both as they are in their files, for the server to read."""
        with open(certfile, "rb") as file:
            text = file.read()
        if keyfile is not None:
            with open(keyfile, "rb") as file:
                text += b"\n" + file.read()
        if b"ENCRYPTED" in text:
            raise no("a private key that is encrypted")
        if b"PRIVATE KEY-----" not in text or not certificates.in_text(text):
            raise failed("PEM", "no certificate with its private key (PEM)")
        self._identity = text.decode("latin-1")

    def load_dh_params(self, path, /):
        raise no("a server's side (load_dh_params)")

    def set_ecdh_curve(self, name, /):
        raise no("a choice of curves (set_ecdh_curve)")

    def set_psk_client_callback(self, callback):
        raise no("keys that both sides know (PSK)")

    set_psk_server_callback = set_psk_client_callback

    def _wrap_socket(self, sock, server_side, server_hostname=None, *, owner=None, session=None):
        transport = tls_connection.OverSocket(sock)
        return self._connection(transport, server_side, server_hostname, owner, session)

    def _wrap_bio(self, incoming, outgoing, server_side, server_hostname=None, *, owner=None, session=None):
        transport = tls_connection.OverBuffers(incoming, outgoing)
        return self._connection(transport, server_side, server_hostname, owner, session)

    def _connection(self, transport, server_side, name, owner, session):
        if server_side or self._protocol == SERVER:
            raise no("a server's side (server_side=True)")
        if session is not None:
            raise no("a session that goes on (session)")
        if name == "" or (name or "").startswith("."):
            raise ValueError("server_hostname cannot be an empty string or start with a leading dot.")
        if self._check_hostname and not name:
            raise ValueError("check_hostname requires server_hostname")
        return tls_connection.Connection(self, transport, name, owner)

    def _believed(self):
        """Those whose time has come and is not over, as texts."""
        now = time.time()
        for certificate, (begin, end) in self._authorities.items():
            if begin <= now <= end:
                yield certificates.to_text(certificate)

    def _speaks(self, version, refusal):
        most = VERSIONS[-1] if self._maximum == MOST else VERSIONS[0] if self._maximum == LEAST else self._maximum
        least = VERSIONS[-1] if self._minimum == MOST else self._minimum
        return least <= version <= most and not self._options & refusal

    def _settings_of(self, name):
        """Gives what the server is told of a connection, which is as all is now."""
        versions = self._speaks(TLS_1_2, NO_TLS_1_2), self._speaks(TLS_1_3, NO_TLS_1_3)
        checks = NONE if self._verify_mode == NONE else REQUIRED if self._check_hostname else OPTIONAL
        system, authorities = self._with_system, "".join(self._believed())
        identity, protocols = self._identity, self._protocols

        def settings():
            if not any(versions):
                raise failed("NO_PROTOCOLS_AVAILABLE", "no protocols available: there are TLS 1.2 and 1.3")
            return tls_connection.settings(name or "", checks, system, authorities, identity, protocols, *versions)

        return settings


def _version(value):
    if value not in VERSIONS and value not in (LEAST, MOST):
        raise ValueError(f"Unsupported TLS/SSL version {value:#x}")
    return int(value)
