"""The response: `start_response` and `write`, and how bytes leave."""

import re

from wasm_serve import host, streams_of_output

# What the host takes in one call.
WHOLE_BYTES_MAX = 65536
CODES = {}
CODES_MAX = 1000
# Fields that were good, as the host takes them: how many lines they are, and the body's length, if they say it. Most
# programs send the same ones again and again.
GOOD = {}
GOOD_MAX = 1000
GOOD_CHARACTERS_MAX = 1000
# RFC 9110, 5.6.2 and 5.5. A value's characters are bytes (PEP 3333).
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A final one; its reason is the server's.
STATUS = re.compile(r"[2-5][0-9][0-9]( [^\x00-\x1f\x7f]*)?")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class ClientGone(OSError):
    """The client does not take more of the response."""


class Response:
    __slots__ = ("outparam", "bodiless", "status", "fields", "length", "head_sent", "body", "stream", "left")

    def __init__(self, outparam, bodiless):
        self.outparam = outparam
        # For HEAD: the head is that of GET, and what the application gives as the body is not sent.
        self.bodiless = bodiless
        self.status = None
        # As the host takes them.
        self.fields = ""
        # The body's, if the head says it.
        self.length = None
        self.head_sent = False
        self.body = None
        self.stream = None
        # Bytes of a body in pieces that are still to come, if its length is announced.
        self.left = None

    def start(self, status, headers, exc_info=None):
        """The `start_response` of PEP 3333."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("start_response was called twice, the second time without exc_info")
        if status not in CODES:
            _check_status(status)
        lines = [""]
        for name, value in headers:
            lines += name, value
        try:
            fields = "\n".join(lines)
            count, length = GOOD[fields]
        except (TypeError, KeyError):
            count = 0
        # Others with line feeds in them may be the same text.
        if count != len(lines):
            fields, length = _checked_fields(lines)
        self.status, self.fields, self.length = status, fields, length
        return self.write

    def write(self, data):
        data = plain(data)
        if not self.head_sent:
            self.send_head()
        if data and not self.bodiless:
            self.send(data)

    def check_started(self):
        if self.status is None:
            raise AssertionError("the application gave its body before it called start_response")

    def message(self):
        """The host's response, with its head."""
        self.check_started()
        call = host.call_import
        fields = call(host.FIELDS, [self.fields])
        if isinstance(fields, host.Err):
            raise ValueError(fields.value)
        fields = fields.value
        fields.finalizer = host.PASSED
        message = call(host.RESPONSE, [fields])
        code = CODES[self.status]
        if code != 200:
            call(host.SET_STATUS, [message, code])
        return message

    def leave(self, message):
        message.finalizer = self.outparam.finalizer = host.PASSED
        host.call_import(host.SET_RESPONSE, [self.outparam, host.Success(message)])
        self.head_sent = True

    def send_head(self):
        """The head alone, for a body that comes in pieces."""
        message = self.message()
        if not self.bodiless:
            self.left = self.length
            self.body = host.call_import(host.BODY, [message]).value
            self.stream = host.call_import(host.BODY_WRITE, [self.body]).value
        self.leave(message)

    def send_whole(self, data):
        """A response with its whole body: one call of the host, if the body is not large."""
        if self.bodiless:
            data = b""
        elif len(data) > WHOLE_BYTES_MAX:
            self.send_head()
            self.send(data)
            return self.finish()
        self.check_started()
        # The host answers in any case: with a 500 if something in the head is not valid.
        self.head_sent = True
        self.outparam.finalizer = host.PASSED
        head, body = self.status[:3] + self.fields, data.decode("latin-1")
        result = host.call_import(host.RESPOND, (self.outparam, head, body))
        if isinstance(result, host.Err):
            raise ValueError(result.value)

    def cut(self, data):
        """As much of the next piece of the body as its length has room for."""
        left = self.left if self.head_sent else self.length
        return data if left is None or len(data) <= left else data[:left]

    def send(self, data):
        """A piece of the body, in pieces for which the host has room."""
        # The host checks it, too, but breaks the transfer off at once, and then this
        # instance may be gone before it has written its traceback.
        if self.body is None or self.left is not None and self.left < len(data):
            raise ValueError("the body is longer than its Content-Length says")
        if self.left is not None:
            self.left -= len(data)
        call = host.call_import
        stream = self.stream
        # What was printed by now is not lost if the client leaves.
        streams_of_output.flush()
        offset, length = 0, len(data)
        while offset < length:
            room = _checked(call(host.CHECK_WRITE, [stream]))
            if room == 0:
                pollable = call(host.SUBSCRIBE, [stream])
                call(host.BLOCK, [pollable])
                host.drop(pollable)
            elif offset == 0 and length <= room:
                self.write_now(data)
                return
            else:
                self.write_now(data[offset : offset + room])
                offset += room

    def write_now(self, data):
        """A piece that the host has room for."""
        if isinstance(host.call_import(host.WRITE, [self.stream, data.decode("latin-1")]), host.Err):
            raise ClientGone("the client does not take more of the response")

    def finish(self):
        """The body is complete; without this its transfer breaks."""
        body = self.body
        if body is None:
            return
        if self.left:
            raise ValueError(f"the body is {self.left} bytes shorter than its Content-Length says")
        host.drop(self.stream)
        self.body = None
        body.finalizer = host.PASSED
        result = host.call_import(host.BODY_FINISH, [body, None])
        if isinstance(result, host.Err):
            raise ValueError(f"the body is not as long as its Content-Length says: {result.value!r}")

    def close(self):
        """At the end of the request: nothing more can be sent by a `write` that the application kept, nor a head
        in the place of the next one's."""
        self.head_sent = True

    def break_off(self):
        if self.body is not None:
            host.drop(self.stream)
            host.drop(self.body)
            self.body = None


def plain(data):
    """A piece of the body as bytes that are nothing more. A class that is made of `bytes` may do otherwise
    what is done with them."""
    if type(data) is bytes:
        return data
    if not isinstance(data, bytes):
        raise TypeError(f"the body's pieces must be bytes, not {type(data).__name__}")
    return bytes(memoryview(data))


def _checked_fields(lines):
    """Fields as the host takes them, and the body's length, if they say it."""
    length = None
    for name, value in zip(lines[1::2], lines[2::2]):
        _check_name(name)
        _check_value(name, value)
        if length is None and name.lower() == "content-length":
            if not value.isdecimal():
                raise ValueError(f"the value of the header field {name!r} is not a number: {value!r}")
            length = int(value)
    fields = "\n".join(lines)
    if len(fields) <= GOOD_CHARACTERS_MAX:
        if len(GOOD) >= GOOD_MAX:
            GOOD.clear()
        GOOD[fields] = len(lines), length
    return fields, length


def _check_name(name):
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"not the name of a header field: {name!r}")


def _check_value(name, value):
    if not isinstance(value, str):
        raise TypeError(f"the value of the header field {name!r} must be text, not {type(value).__name__}: {value!r}")
    if not VALUE.fullmatch(value):
        raise ValueError(
            f"the value of the header field {name!r} has a character that none may have, such as a line feed or one "
            f"beyond latin-1: {value!r}"
        )


def _checked(result):
    if isinstance(result, host.Err):
        error = result.value
        if isinstance(error, host.streams.StreamError_Closed):
            raise ClientGone("the client does not take more of the response")
        host.drop(error.value)
        raise ValueError("the body is longer than its Content-Length says")
    return result.value


def _check_status(status):
    if not isinstance(status, str) or not STATUS.fullmatch(status):
        raise ValueError(f"not a status: {status!r}")
    if len(CODES) >= CODES_MAX:
        CODES.clear()
    CODES[status] = int(status[:3])
