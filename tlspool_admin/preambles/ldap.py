"""LDAP: the extended operation StartTLS of RFC 4511 section 4.14, in BER.

Other requests before it are answered with confidentialityRequired, so that a client says what is wrong.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from tlspool_admin.preambles.lines import quoted
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, Need, Refused, Say, Script, Side, Step

OID = b"1.3.6.1.4.1.1466.20037"

MESSAGE_B = 4096
"""Longest message before TLS: a bind with a long name has some hundred."""

_SEQUENCE, _INTEGER, _OCTETS, _ENUMERATED = 0x30, 0x02, 0x04, 0x0A
_UNBIND, _ABANDON, _EXTENDED, _EXTENDED_ANSWER = 0x42, 0x50, 0x77, 0x78

_ANSWERS = {0x60: 0x61, 0x63: 0x65, 0x66: 0x67, 0x68: 0x69, 0x4A: 0x6B, 0x6C: 0x6D, 0x6E: 0x6F, 0x77: 0x78}
"""Bind, search, modify, add, delete, rename, compare, extended: which answer ends which request."""

_CONFIDENTIALITY_REQUIRED = 13
_CODES = {1: "operationsError", 2: "protocolError", 10: "referral", 13: "confidentialityRequired", 52: "unavailable"}


class Ldap(Protocol):
    """LDAP."""

    name: ClassVar[str] = "ldap"

    def client(self, names: Names) -> Script:
        """StartTLS."""
        side = Side.CRYPT
        request = _element(_EXTENDED, _element(0x80, OID))
        yield Say(side, _element(_SEQUENCE, _element(_INTEGER, b"\x01") + request))
        number, tag, body = yield from _message(side)
        if number != b"\x01" or tag != _EXTENDED_ANSWER:
            raise Refused(side, f"StartTLS was answered with message {number.hex()} of kind {tag:#x}")
        kind, value, rest = _split_untrusted(side, body)
        if kind != _ENUMERATED or len(value) != 1:
            raise Refused(side, "the answer to StartTLS has no result code")
        if value != b"\0":
            _, _, rest = _split_untrusted(side, rest)
            _, text, _ = _split_untrusted(side, rest)
            code = f"{value[0]} {_CODES.get(value[0], '')}".rstrip()
            raise Refused(side, f"StartTLS was answered with {code} {quoted(text.decode('utf-8', 'replace'))}")
        return b""

    def server(self, names: Names) -> Script:
        """Wait for StartTLS."""
        side = Side.CRYPT
        for _ in range(COMMANDS):
            number, tag, body = yield from _message(side)
            if tag == _UNBIND:
                raise Refused(side, "the client left without TLS")
            if tag == _EXTENDED:
                kind, value, rest = _split_untrusted(side, body)
                if (kind, value, rest) == (0x80, OID, b""):
                    yield Say(side, _answer(number, _EXTENDED_ANSWER, 0, b"", _element(0x8A, OID)))
                    return b""
            if tag in _ANSWERS:
                yield Say(side, _answer(number, _ANSWERS[tag], _CONFIDENTIALITY_REQUIRED, b"StartTLS comes first"))
            elif tag != _ABANDON:
                raise Refused(side, f"no request of LDAP is of kind {tag:#x}")
        raise Refused(side, f"the client gave {COMMANDS} requests without turning to TLS")


def _element(tag: int, value: bytes) -> bytes:
    if len(value) < 0x80:
        return bytes((tag, len(value))) + value
    return bytes((tag, 0x82)) + len(value).to_bytes(2, "big") + value


def _answer(number: bytes, tag: int, code: int, text: bytes, more: bytes = b"") -> bytes:
    result = _element(_ENUMERATED, bytes((code,))) + _element(_OCTETS, b"") + _element(_OCTETS, text)
    return _element(_SEQUENCE, _element(_INTEGER, number) + _element(tag, result + more))


def _split_untrusted(side: Side, data: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and value of the first element, and what is behind it.

    Raises:
        Refused: there is no whole element.
    """
    head_b = 2
    if len(data) >= head_b:
        size_b = data[1]
        if size_b >= 0x80:
            count = size_b - 0x80
            head_b += count
            size_b = int.from_bytes(data[2:head_b], "big") if 1 <= count <= 4 else MESSAGE_B
        if head_b + size_b <= len(data):
            return data[0], data[head_b : head_b + size_b], data[head_b + size_b :]
    raise Refused(side, "malformed BER")


def _message(side: Side) -> Generator[Step, bytes, tuple[bytes, int, bytes]]:
    """Hear a message, and return its number as it is written, the tag of the operation, and what is in that."""
    head = yield Need(side, 2)
    if head[0] != _SEQUENCE or head[1] == 0x80 or head[1] > 0x84:
        raise Refused(side, "what came is no message of LDAP")
    size_b = head[1]
    if size_b > 0x80:
        size_b = int.from_bytes((yield Need(side, size_b - 0x80)), "big")
    if not 5 <= size_b <= MESSAGE_B:
        raise Refused(side, f"a message of {size_b} bytes before TLS")
    kind, number, rest = _split_untrusted(side, (yield Need(side, size_b)))
    if kind != _INTEGER or not 1 <= len(number) <= 4:
        raise Refused(side, "a message of LDAP without a number")
    tag, body, _ = _split_untrusted(side, rest)  # controls may follow, and none changes what is answered here
    return number, tag, body
