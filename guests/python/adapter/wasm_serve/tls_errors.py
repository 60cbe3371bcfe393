"""The exceptions of `ssl`, as OpenSSL's are: a number, and a text that begins with what it is."""


class SSLError(OSError):
    """An error occurred in the SSL implementation."""

    # For pickles, and for who reads a traceback.
    __module__ = "ssl"
    library = reason = None

    def __str__(self):
        return self.strerror if isinstance(self.strerror, str) else super().__str__()


class SSLZeroReturnError(SSLError):
    """SSL/TLS session closed cleanly."""

    __module__ = "ssl"


class SSLWantReadError(SSLError):
    """Non-blocking SSL socket needs to read more data before the requested operation can be completed."""

    __module__ = "ssl"


class SSLWantWriteError(SSLError):
    """Non-blocking SSL socket needs to write more data before the requested operation can be completed."""

    __module__ = "ssl"


class SSLSyscallError(SSLError):
    """System error when attempting SSL operation."""

    __module__ = "ssl"


class SSLEOFError(SSLError):
    """SSL/TLS connection terminated abruptly."""

    __module__ = "ssl"


class SSLCertVerificationError(SSLError, ValueError):
    """A certificate could not be verified."""

    __module__ = "ssl"
    verify_code, verify_message = 0, ""


def failed(reason, text, kind=SSLError, number=1):
    error = kind(number, f"[SSL: {reason}] {text}")
    error.library, error.reason = "SSL", reason
    return error


def want_read():
    return SSLWantReadError(2, "The operation did not complete (read)")


def want_write():
    return SSLWantWriteError(3, "The operation did not complete (write)")


def ended_abruptly():
    """The transport has ended, and nobody said that nothing was left to come."""
    return failed("UNEXPECTED_EOF_WHILE_READING", "EOF occurred in violation of protocol", SSLEOFError, 8)


def not_believed(number, why, name):
    if number == 62:
        kind = "IP address" if not name.strip("0123456789.") or ":" in name else "Hostname"
        why = f"{kind} mismatch, certificate is not valid for {name!r}."
    error = failed("CERTIFICATE_VERIFY_FAILED", f"certificate verify failed: {why}", SSLCertVerificationError)
    error.verify_code, error.verify_message = number, why
    return error
