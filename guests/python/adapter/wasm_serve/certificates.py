"""Certificates (X.509): as texts, as bytes, and as `getpeercert` tells of them."""

import base64
import calendar
import ipaddress
import re

from wasm_serve.tls_errors import failed

ENCODING_PEM, ENCODING_DER = 1, 2
BLOCK = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL)
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
# By their identifiers, as they are encoded.
ATTRIBUTES = {
    b"\x55\x04" + bytes([number]): name
    for number, name in {
        3: "commonName", 4: "surname", 5: "serialNumber", 6: "countryName", 7: "localityName",
        8: "stateOrProvinceName", 9: "streetAddress", 10: "organizationName", 11: "organizationalUnitName",
        12: "title", 15: "businessCategory", 17: "postalCode", 42: "givenName", 97: "organizationIdentifier",
    }.items()
}  # fmt: skip
ATTRIBUTES[b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"] = "emailAddress"
ATTRIBUTES[b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19"] = "domainComponent"
ALTERNATIVE_NAMES = b"\x55\x1d\x11"
CONSTRAINTS = b"\x55\x1d\x13"


class Certificate:
    """One of a chain."""

    def __init__(self, content):
        self.content = content

    def public_bytes(self, format=ENCODING_PEM):
        return to_text(self.content) if format == ENCODING_PEM else self.content

    def get_info(self):
        return decoded(self.content)


def in_text(text):
    """All that are in a text (PEM)."""
    try:
        return [base64.b64decode(block) for block in BLOCK.findall(text)]
    except ValueError:
        raise failed("PEM", "a certificate that is malformed (PEM)") from None


def from_file(path, is_needed=True):
    with open(path, "rb") as file:
        found = in_text(file.read())
    if is_needed and not found:
        raise failed("NO_CERTIFICATE_OR_CRL_FOUND", "no certificate or crl found")
    return found


def from_data(data):
    """As `cadata` has them: texts are PEM, bytes are DER."""
    if isinstance(data, str):
        found = in_text(data.encode("ascii"))
    else:
        found, left = [], bytes(data)
        while left:
            end = _next(left, 0)[2]
            found.append(left[:end])
            left = left[end:]
    if not found:
        raise failed("NO_START_LINE", "no start line: cadata does not contain a certificate")
    return found


def authority(content):
    """When one that is to be believed begins and ends, in seconds since the Unix epoch. It must be an authority's: the
    server's TLS would believe whatever the key of any other one has signed."""
    try:
        fields = _fields(content)
        version = fields[0][0] == 0xA0
        # Those of the first version say nothing of it.
        is_authority = not version or any(
            identifier == CONSTRAINTS and _parts(_parts(value)[0][1])[:1] == [(0x01, b"\xff")]
            for identifier, value in _extensions(fields)
        )
        times = [_seconds(*time) for time in _parts(fields[4 if version else 3][1])]
    except (IndexError, ValueError, TypeError):
        raise failed("ASN1", "a certificate that is malformed (DER)") from None
    if not is_authority:
        raise NotImplementedError(
            "a certificate that is no authority's is to be believed: TLS in a WebAssembly guest is the server's, "
            "which believes authorities alone"
        )
    return times


def to_text(content):
    lines = base64.encodebytes(content).decode().replace("\n", "")
    lines = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def _next(content, at):
    """The tag at a place, where its value begins, and where it ends."""
    try:
        tag, length, at = content[at], content[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(content[at : at + count]), at + count
    except IndexError:
        tag, length = 0, len(content) + 1
    if at + length > len(content):
        raise failed("NOT_ENOUGH_DATA", "a certificate that is malformed (DER)")
    return tag, at, at + length


def _parts(content):
    """The tags and values in a value."""
    parts, at = [], 0
    while at < len(content):
        tag, begin, at = _next(content, at)
        parts.append((tag, content[begin:at]))
    return parts


def decoded(content):
    """What `getpeercert` says of it."""
    fields = _fields(content)
    version = 1
    if fields[0][0] == 0xA0:
        version = int.from_bytes(_parts(fields.pop(0)[1])[0][1]) + 1
    number, _, issuer, times, subject, _ = (value for _, value in fields[:6])
    begin, end = (_time(*time) for time in _parts(times))
    serial = f"{int.from_bytes(number):X}"
    told = {
        "subject": _name(subject),
        "issuer": _name(issuer),
        "version": version,
        "serialNumber": serial.zfill(len(serial) + len(serial) % 2),
        "notBefore": begin,
        "notAfter": end,
    }
    for identifier, value in _extensions(fields):
        if identifier == ALTERNATIVE_NAMES:
            told["subjectAltName"] = tuple(_alternatives(value))
    return told


def _fields(content):
    return _parts(_parts(_parts(content)[0][1])[0][1])


def _extensions(fields):
    """The identifier and the value of each."""
    for tag, value in fields:
        if tag == 0xA3:
            for _, extension in _parts(_parts(value)[0][1]):
                (_, identifier), *_, (_, content) = _parts(extension)
                yield identifier, content


def _name(value):
    return tuple(tuple(map(_attribute, _parts(together))) for _, together in _parts(value))


def _attribute(attribute):
    (_, identifier), (tag, value) = _parts(attribute[1])
    encoding = {0x1E: "utf-16-be", 0x1C: "utf-32-be", 0x14: "latin-1"}.get(tag, "utf-8")
    return ATTRIBUTES.get(identifier) or _dotted(identifier), value.decode(encoding, "replace")


def _dotted(identifier):
    numbers, number = [], 0
    for byte in identifier:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _digits(tag, value):
    text = value.decode()
    return ("20" if text[:2] < "50" else "19") + text if tag == 0x17 else text


def _seconds(tag, value):
    text = _digits(tag, value)
    return calendar.timegm((int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))))


def _time(tag, value):
    text = _digits(tag, value)
    month, day = MONTHS[int(text[4:6]) - 1], int(text[6:8])
    return f"{month} {day:2} {text[8:10]}:{text[10:12]}:{text[12:14]} {text[:4]} GMT"


def _alternatives(value):
    for tag, name in _parts(_parts(value)[0][1]):
        match tag:
            case 0x81:
                yield "email", name.decode("latin-1")
            case 0x82:
                yield "DNS", name.decode("latin-1")
            case 0x86:
                yield "URI", name.decode("latin-1")
            case 0x87 if len(name) == 4:
                yield "IP Address", str(ipaddress.ip_address(name))
            case 0x87:
                yield "IP Address", ":".join(f"{int.from_bytes(name[at : at + 2]):X}" for at in range(0, len(name), 2))
            case 0xA4:
                yield "DirName", _name(_parts(name)[0][1])
            case 0x88:
                yield "Registered ID", _dotted(name)
            case _:
                yield "othername", "<unsupported>"
