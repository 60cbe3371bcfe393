"""A connection of TLS: the server's engine has what is secret, and what is sent and received goes through here, over
a socket or over buffers.

The order is always the same: what the engine wants to send goes first, since the other side may wait for it.
"""

import _socket
import time
import weakref

from wasm_serve import certificates, host
from wasm_serve.tls_errors import (
    SSLZeroReturnError,
    ended_abruptly,
    failed,
    not_believed,
    want_read,
    want_write,
)

# What the engine takes and gives at a time.
PIECE_BYTES_MAX = 1 << 16
CHECKS = list(host.tls.Checks)


def settings(name, checks, with_system, authorities, identity, protocols, with_1_2, with_1_3):
    return host.tls.Settings(
        name, CHECKS[checks], with_system, authorities, identity, protocols, with_1_2, with_1_3
    )


class SSLSession:
    """There is none that could go on: the server's engine checks each connection anew."""

    __module__ = "_ssl"

    def __new__(cls):
        raise TypeError("cannot create '_ssl.SSLSession' instances")


class MemoryBIO:
    """Bytes between a connection and whoever carries them."""

    def __init__(self):
        self._bytes, self._is_ended = bytearray(), False

    @property
    def pending(self):
        return len(self._bytes)

    @property
    def eof(self):
        return self._is_ended and not self._bytes

    def read(self, size=-1, /):
        size = len(self._bytes) if size is None or size < 0 else size
        read = bytes(self._bytes[:size])
        del self._bytes[:size]
        return read

    def write(self, b, /):
        if self._is_ended:
            raise failed("WRITE_AFTER_EOF", "cannot write() after write_eof()")
        with memoryview(b) as view:
            self._bytes += view
            return view.nbytes

    def write_eof(self):
        self._is_ended = True


class OverBuffers:
    """What is received and sent is in buffers, which others fill and empty."""

    def __init__(self, incoming, outgoing):
        self._incoming, self._outgoing = incoming, outgoing

    def begin(self):
        """Nothing here takes time."""

    def receive(self):
        if not self._incoming.pending:
            if self._incoming.eof:
                return b""
            raise want_read()
        return self._incoming.read(PIECE_BYTES_MAX)

    def send(self, data):
        return self._outgoing.write(data)


class OverSocket:
    """A socket, whose own methods are TLS: these are those below. It refers to the connection, not the other way."""

    def __init__(self, socket):
        self._socket = weakref.ref(socket)
        self._until = None

    def begin(self):
        """The time that the socket has goes for all that one call does."""
        timeout = self._open().gettimeout()
        self._until = time.monotonic() + timeout if timeout else None

    def _open(self):
        socket = self._socket()
        if socket is None or socket.fileno() < 0:
            raise failed("BAD_SOCKET", "Underlying socket connection gone")
        return socket

    def _check_time(self, what):
        if self._until is not None and time.monotonic() > self._until:
            raise TimeoutError(f"The {what} operation timed out")

    def receive(self):
        self._check_time("read")
        try:
            return _socket.socket.recv(self._open(), PIECE_BYTES_MAX)
        except BlockingIOError:
            raise want_read() from None
        except TimeoutError:
            raise TimeoutError("The read operation timed out") from None

    def send(self, data):
        self._check_time("write")
        try:
            return _socket.socket.send(self._open(), data)
        except BlockingIOError:
            raise want_write() from None
        except TimeoutError:
            raise TimeoutError("The write operation timed out") from None


class Connection:
    """What `ssl` calls `_SSLSocket`: the client's side."""

    server_side = session_reused = False

    def __init__(self, context, transport, name, owner):
        self.context, self._transport, self.server_hostname = context, transport, name
        # As the context is now, whatever becomes of it.
        self._settings = context._settings_of(name)
        self._owner = None if owner is None else weakref.ref(owner)
        # Made when the handshake begins, so that a context goes on to be the build's own.
        self._engine = None
        self._is_handshaking, self._facts = True, None
        # What was taken from the engine and not sent; what was received and not read.
        self._unsent, self._unread = b"", b""
        # What the caller has given that is in what was not sent, and how much of it.
        self._piece, self._written = b"", 0

    def __del__(self):
        if self._engine is not None:
            host.drop(self._engine)

    @property
    def owner(self):
        return None if self._owner is None else self._owner()

    @property
    def session(self):
        return None

    @session.setter
    def session(self, value):
        if value is not None:
            raise NotImplementedError("the server's TLS has no sessions that go on")

    def _begin(self):
        result = host.call_import(host.TLS_BEGIN, [self._settings()])
        if isinstance(result, host.Err):
            raise failed("LIBRARY", result.value)
        self._engine = result.value

    def _flush(self):
        """Sends all that there is to send, or raises."""
        while True:
            while self._unsent:
                self._unsent = self._unsent[self._transport.send(self._unsent) :]
            self._unsent = memoryview(host.call_import(host.TLS_TAKE, [self._engine]).encode("latin-1"))
            if not self._unsent:
                return

    def _receive(self):
        """Gives the engine what has come. False if nothing comes any more."""
        received = self._transport.receive()
        if not received:
            return False
        result = host.call_import(host.TLS_FEED, [self._engine, received.decode("latin-1")])
        self._is_handshaking = self._good(result)
        return True

    def _good(self, result):
        if not isinstance(result, host.Err):
            return result.value
        # The other side is told, if that can be done now.
        try:
            self._flush()
        except OSError:
            pass
        failure = result.value
        match type(failure):
            case host.tls.Failure_Certificate:
                raise not_believed(*failure.value, self.server_hostname or "") from None
            case host.tls.Failure_Alert:
                alert = f"TLSV1_ALERT_{failure.value}"
                raise failed(alert, alert.lower().replace("_", " ")) from None
        raise failed("SSLV3_ALERT_HANDSHAKE_FAILURE" if self._is_handshaking else "BAD_RECORD", failure.value) from None

    def do_handshake(self):
        self._transport.begin()
        if self._engine is None:
            self._begin()
        self._flush()
        while self._is_handshaking:
            if not self._receive():
                raise ended_abruptly()
            self._flush()

    def read(self, size=1024, buffer=None, /):
        if buffer is not None:
            with memoryview(buffer) as view, view.cast("B") as place:
                size = len(place) if size <= 0 else min(size, len(place))
                read = self._read(size)
                place[: len(read)] = read
                return len(read)
        if size < 0:
            raise ValueError("size should not be negative")
        return self._read(size)

    def _read(self, size):
        if size == 0:
            return b""
        if self._unread:
            read, self._unread = self._unread[:size], self._unread[size:]
            return read
        self._ready()
        while (received := self._received(size)) is None:
            if not self._receive():
                raise ended_abruptly()
            self._flush_if_possible()
        return received

    def _received(self, size):
        """None if more has to come first."""
        text = self._good(host.call_import(host.TLS_READ, [self._engine, min(size, PIECE_BYTES_MAX)]))
        return None if text is None else text.encode("latin-1")

    def _ready(self):
        """Where nobody has asked for the handshake, the first bytes do."""
        if self._is_handshaking:
            self.do_handshake()
        else:
            self._transport.begin()
            self._flush_if_possible()

    def _flush_if_possible(self):
        """What cannot be sent now is no reason not to read."""
        try:
            self._flush()
        except OSError:
            pass

    def write(self, data, /):
        """How much was sent. What could not be sent as a whole is to be given once more, as with OpenSSL."""
        if self._is_handshaking:
            self.do_handshake()
        self._transport.begin()
        self._flush()
        with memoryview(data) as view, view.cast("B") as content:
            piece = bytes(content[:PIECE_BYTES_MAX])
        if self._written and not piece.startswith(self._piece):
            raise failed("BAD_WRITE_RETRY", "bad write retry")
        if not self._written:
            if not piece:
                return 0
            self._written = host.call_import(host.TLS_WRITE, [self._engine, piece.decode("latin-1")])
            if not self._written:
                raise failed("PROTOCOL_IS_SHUTDOWN", "protocol is shutdown", SSLZeroReturnError, 6)
            self._piece = piece[: self._written]
            self._flush()
        written, self._piece, self._written = self._written, b"", 0
        return written

    def pending(self):
        if not self._unread and self._engine is not None and not self._is_handshaking:
            self._unread = self._received(PIECE_BYTES_MAX) or b""
        return len(self._unread)

    def shutdown(self):
        """Ends TLS on both sides; the socket is for what comes after it."""
        if self._engine is None:
            raise failed("UNINITIALIZED", "the handshake has not begun")
        self._transport.begin()
        host.call_import(host.TLS_END, [self._engine])
        self._flush()
        while (received := self._received(PIECE_BYTES_MAX)) != b"":
            if received is None and not self._receive():
                raise ended_abruptly()
        return self._transport._socket() if isinstance(self._transport, OverSocket) else None

    def _agreed(self):
        if self._facts is None and not self._is_handshaking:
            self._facts = host.call_import(host.TLS_FACTS, [self._engine])
        return self._facts

    def getpeercert(self, binary_mode=False, /):
        if self._agreed() is None:
            raise ValueError("handshake not done yet")
        if not self._facts.certificates:
            return None
        certificate = self._facts.certificates[0].encode("latin-1")
        if binary_mode:
            return certificate
        return certificates.decoded(certificate) if self.context.verify_mode else {}

    def get_unverified_chain(self):
        agreed = self._agreed()
        return agreed and [certificates.Certificate(one.encode("latin-1")) for one in agreed.certificates]

    def get_verified_chain(self):
        raise NotImplementedError("the server's TLS does not tell which authority vouched for a certificate")

    def cipher(self):
        agreed = self._agreed()
        return agreed and (_by_openssl(agreed.cipher), agreed.version, 128 if "128" in agreed.cipher else 256)

    def shared_ciphers(self):
        return None

    def compression(self):
        return None

    def version(self):
        agreed = self._agreed()
        return agreed and agreed.version

    def selected_alpn_protocol(self):
        agreed = self._agreed()
        return agreed and (agreed.protocol or None)

    def get_channel_binding(self, cb_type="tls-unique"):
        if cb_type != "tls-unique":
            raise ValueError(f"'{cb_type}' channel binding type not implemented")
        raise NotImplementedError("the server's TLS has no 'tls-unique' channel binding")

    def verify_client_post_handshake(self):
        raise NotImplementedError("there is no server's side of TLS in a WebAssembly guest")


def _by_openssl(cipher):
    """OpenSSL's name of one of TLS 1.2 has fewer words; the others are IANA's."""
    if "_WITH_" not in cipher:
        return cipher
    name = cipher.removeprefix("TLS_").replace("_WITH_", "_").replace("AES_", "AES").removesuffix("POLY1305_SHA256")
    return (name + "POLY1305" if name.endswith("_") else name).replace("_", "-")
