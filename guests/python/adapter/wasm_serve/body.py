"""The request's body: `wsgi.input`. The host is asked for it when the program is."""

import io

from wasm_serve import host

BUFFER_BYTES = 65536

# A body in chunks has no length until it is read: so much of it is read before the application starts.
AHEAD_BYTES = 8 << 20


class Body(io.RawIOBase):
    """The host's stream of a body; `io.BufferedReader` makes lines of it."""

    def __init__(self, request):
        consumed = host.call_import(host.CONSUME, [request])
        self.body = consumed.value
        self.stream = host.call_import(host.BODY_STREAM, [self.body]).value
        # What was read before the application started.
        self.ahead = b""
        self.ended = False
        self.broken = False

    def readable(self):
        return True

    def read(self, size=-1):
        # As much memory is set aside as is asked for.
        return super().read(min(size, BUFFER_BYTES))

    def readinto(self, buffer):
        if self.stream is None:
            raise ValueError("wsgi.input is read after its request has ended")
        if self.ahead:
            size = min(len(buffer), len(self.ahead))
            buffer[:size] = self.ahead[:size]
            self.ahead = self.ahead[size:]
            return size
        if self.ended or not len(buffer):
            return 0
        result = host.call_import(host.READ, [self.stream, min(len(buffer), BUFFER_BYTES)])
        if isinstance(result, host.Err):
            self.ended = True
            if isinstance(result.value, host.streams.StreamError_Closed):
                return 0
            host.drop(result.value.value)
            self.broken = True
            raise ConnectionResetError("the request's body broke off")
        data = result.value
        buffer[: len(data)] = data
        return len(data)

    def read_ahead(self):
        """True if that is all."""
        ahead = io.BytesIO()
        while ahead.tell() < AHEAD_BYTES and (piece := self.read(BUFFER_BYTES)):
            ahead.write(piece)
        # Its pieces are not copied.
        self.ahead = memoryview(ahead.getvalue())
        return self.ended

    def drop(self):
        host.drop(self.stream)
        host.drop(self.body)
        self.stream = None


class Input:
    __slots__ = ("request", "raw", "reader")

    def __init__(self, request):
        self.request = request
        self.raw = None

    def _open(self):
        if self.raw is None:
            if self.request is None:
                raise ValueError("wsgi.input is read after its request has ended")
            self.raw = Body(self.request)
            self.reader = io.BufferedReader(self.raw, BUFFER_BYTES)
        return self.reader

    def measure(self, environ):
        """Many applications read as many bytes as `CONTENT_LENGTH` says, and none without it."""
        self._open()
        if self.raw.read_ahead():
            environ["CONTENT_LENGTH"] = str(len(self.raw.ahead))

    def read(self, size=-1):
        reader = self._open()
        if size is None or size <= BUFFER_BYTES:
            return reader.read(-1 if size is None else size)
        # The library sets aside as much memory as is asked for, however little comes.
        read = io.BytesIO()
        while size > 0 and (piece := reader.read(min(size, BUFFER_BYTES))):
            read.write(piece)
            size -= len(piece)
        # Not a copy.
        return read.getvalue()

    def read1(self, size=-1):
        return self._open().read1(min(size, BUFFER_BYTES))

    def readline(self, size=-1):
        return self._open().readline(-1 if size is None else size)

    def readlines(self, hint=-1):
        return self._open().readlines(hint)

    def __iter__(self):
        return iter(self._open())

    def __getattr__(self, name):
        # What io.BufferedReader has beyond PEP 3333, such as `readinto`, `peek` and `seekable`.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._open(), name)

    def close(self):
        """At the end of the request, by the adapter."""
        self.request = None
        if self.raw is not None:
            self.raw.drop()
            self.raw = self.reader = None

    @property
    def is_broken(self):
        """The client, or a limit of the server, ended the body too early."""
        return self.raw is not None and self.raw.broken


class FileWrapper:
    """`wsgi.file_wrapper`: the pieces of a file."""

    def __init__(self, file, block_size=BUFFER_BYTES):
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self):
        return self

    def __next__(self):
        piece = self.file.read(self.block_size)
        if piece:
            return piece
        raise StopIteration
