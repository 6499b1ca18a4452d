"""Read a ClientHello before OpenSSL does: who does the remote think we are?

The broker chooses the credential by the server name, and OpenSSL wants the credential when it starts.  So the
first bytes of a remote are looked at here, kept, and later given to OpenSSL as they came.  This is the first
code of the pool that touches bytes of a stranger: it is bounded, copies little, looks at nothing but what it
needs, and raises one exception.

    record:     type(1) version(2) length(2) fragment            RFC 8446 section 5.1
    handshake:  type(1) length(3) body, over one or more records             section 4
    body:       version(2) random(32) session id(<1) suites(<2) compression(<1) extensions(<2)   section 4.1.2

OpenSSL parses the same bytes again and has the last word on all that is not read here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import field

from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.record import record

HELLO_B = 32 * 1024
"""Longest ClientHello.  Browsers send 0.5 to 2 KiB, with post-quantum key shares; OpenSSL stops at 128 KiB."""

_RAW_B = 2 * HELLO_B
"""What it may take on the wire: fragments of a few octets each are a game, not a client."""

_RECORD_B = 16384
"""Longest plaintext fragment (RFC 8446 section 5.1)."""

NO_ALERT = 255

# AlertDescription, RFC 8446 section 6
_UNEXPECTED_MESSAGE, _RECORD_OVERFLOW, _ILLEGAL_PARAMETER, _DECODE_ERROR = 10, 22, 47, 50

_ALERT, _HANDSHAKE = 21, 22
_CLIENT_HELLO = 1
_SERVER_NAME, _ALPN = 0, 16
_READ = frozenset({_SERVER_NAME, _ALPN})

_EXTENSION = struct.Struct("!HH")
_VISIBLE = re.compile(rb"[\x21-\x7e]+")

_PLAINTEXTS = (
    (b"SSH-", "SSH"),
    (b"GET ", "plaintext HTTP"),
    (b"HEAD ", "plaintext HTTP"),
    (b"POST ", "plaintext HTTP"),
    (b"PUT ", "plaintext HTTP"),
    (b"OPTIONS ", "plaintext HTTP"),
    (b"CONNECT ", "plaintext HTTP"),
    (b"DELETE ", "plaintext HTTP"),
    (b"PATCH ", "plaintext HTTP"),
    (b"PRI * HTTP/2", "plaintext HTTP/2"),
    (b"HTTP/", "a plaintext HTTP answer"),
    (b"EHLO ", "plaintext SMTP"),
    (b"HELO ", "plaintext SMTP"),
    (b"220 ", "a greeting of SMTP or FTP in plaintext"),
    (b"220-", "a greeting of SMTP or FTP in plaintext"),
    (b"* OK", "a greeting of IMAP in plaintext"),
    (b"+OK", "a greeting of POP3 in plaintext"),
    (b"<?xml", "plaintext XMPP"),
    (b"<stream", "plaintext XMPP"),
    (b"PROXY ", "a PROXY protocol header"),
    (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol header"),
)


class HelloRefused(Exception):
    """What came is no ClientHello: a stable code, the alert that says so (or 255), and why."""

    def __init__(self, code: Code, alert: int, detail: str) -> None:
        super().__init__(code, alert, detail)
        self.code = code
        self.alert = alert
        self.detail = detail


@record
class ClientHello:
    """What is needed of a ClientHello, as the remote wrote it: ``sni`` in lower case, ``alpn`` as list body."""

    sni: str
    alpn: bytes
    random: bytes = field(default=b"", compare=False, repr=False)


def refuse_plaintext_untrusted(start: bytes) -> None:
    """Look at the first bytes of a remote, server or client.

    Raises:
        HelloRefused: REMOTE_NOT_TLS, with a guess at what it speaks; or an alert record, where one comes first.
    """
    first = start[0] if start else _HANDSHAKE
    if first == _HANDSHAKE:
        if len(start) > 1 and start[1] != 3:
            raise HelloRefused(Code.REMOTE_NOT_TLS, NO_ALERT, f"bytes that are no TLS record: {start[:8].hex(' ')}")
        return
    if first == _ALERT and start[1:2] in (b"", b"\x03"):
        return
    if first & 0x80 and start[2:3] == b"\x01":
        raise HelloRefused(Code.REMOTE_NOT_TLS, NO_ALERT, "an SSLv2 ClientHello")
    for prefix, name in _PLAINTEXTS:
        if start.startswith(prefix):
            raise HelloRefused(Code.REMOTE_NOT_TLS, NO_ALERT, name)
    raise HelloRefused(Code.REMOTE_NOT_TLS, NO_ALERT, f"bytes that are no TLS record: {start[:8].hex(' ')}")


class HelloReader:
    """Collects the bytes of a remote until its ClientHello is whole.  Linear in the bytes, however they come."""

    __slots__ = ("_at", "_body", "raw")

    def __init__(self) -> None:
        self.raw = bytearray()
        self._body = bytearray()
        self._at = 0

    def feed_untrusted(self, data: bytes) -> ClientHello | None:
        """Take bytes; return the ClientHello once it is whole.

        ``raw`` then holds all bytes so far, those behind the ClientHello too.

        Raises:
            HelloRefused: this is no ClientHello, or one that cannot be read.
        """
        self.raw += data
        refuse_plaintext_untrusted(bytes(self.raw[:16]))
        while (end := self._next_record_untrusted()) is not None:
            self._body += self.raw[self._at + 5 : end]
            self._at = end
            hello = self._whole_untrusted()
            if hello is not None:
                return hello
        if len(self.raw) > _RAW_B:
            raise HelloRefused(Code.REMOTE_PROTOCOL, _ILLEGAL_PARAMETER, "a ClientHello in a flood of small records")
        return None

    @property
    def rest(self) -> bytes:
        """What came behind a ClientHello that is whole."""
        return bytes(self.raw[self._at :])

    def _next_record_untrusted(self) -> int | None:
        """Return where the record at hand ends; None when it is not all there."""
        raw, at = self.raw, self._at
        if len(raw) < at + 5:
            return None
        kind, major, length = raw[at], raw[at + 1], raw[at + 3] << 8 | raw[at + 4]
        if kind == _ALERT and length == 2:
            if len(raw) < at + 7:
                return None
            raise HelloRefused(Code.REMOTE_ALERT, raw[at + 6], f"alert {raw[at + 6]} instead of a ClientHello")
        if kind != _HANDSHAKE or major != 3:
            raise _protocol(_UNEXPECTED_MESSAGE, f"a record of type {kind} instead of a ClientHello")
        if length > _RECORD_B:
            raise _protocol(_RECORD_OVERFLOW, f"a record of {length} bytes")
        if length == 0:
            raise _protocol(_UNEXPECTED_MESSAGE, "an empty handshake record")
        return at + 5 + length if len(raw) >= at + 5 + length else None

    def _whole_untrusted(self) -> ClientHello | None:
        body = self._body
        if body[0] != _CLIENT_HELLO:
            raise _protocol(_UNEXPECTED_MESSAGE, f"handshake message {body[0]} instead of a ClientHello")
        if len(body) < 4:
            return None
        length = int.from_bytes(body[1:4])
        if length > HELLO_B:
            raise _protocol(_ILLEGAL_PARAMETER, f"a ClientHello of {length} bytes")
        if len(body) < 4 + length:
            return None
        if len(body) > 4 + length:
            raise _protocol(_UNEXPECTED_MESSAGE, "a ClientHello with another message behind it")
        return _hello_untrusted(bytes(body[4:]))


def _protocol(alert: int, detail: str) -> HelloRefused:
    return HelloRefused(Code.REMOTE_PROTOCOL, alert, detail)


def _vector_untrusted(data: bytes, at: int, length_octets: int, end: int) -> tuple[int, int]:
    """Return (start, end) of a vector with its length before it, which must fit before ``end``."""
    start = at + length_octets
    if start > end:
        raise _protocol(_DECODE_ERROR, "a ClientHello that ends too early")
    stop = start + int.from_bytes(data[at:start])
    if stop > end:
        raise _protocol(_DECODE_ERROR, "a ClientHello with a length that does not fit")
    return start, stop


def _hello_untrusted(body: bytes) -> ClientHello:
    end = len(body)
    at = 2 + 32
    random = body[2:at]
    for length_octets in (1, 2, 1):  # session id, cipher suites, compression methods
        _, at = _vector_untrusted(body, at, length_octets, end)
    sni, alpn = "", b""
    if at == end:
        return ClientHello(sni, alpn, random)
    at, stop = _vector_untrusted(body, at, 2, end)
    if stop != end:
        raise _protocol(_DECODE_ERROR, "a ClientHello with bytes behind its extensions")
    seen: set[int] = set()
    while at < end:
        start = at + 4
        if start > end:
            where = "inside an extension" if at + 2 > end else "too early"
            raise _protocol(_DECODE_ERROR, f"a ClientHello that ends {where}")
        kind, length = _EXTENSION.unpack_from(body, at)
        at = start + length
        if at > end:
            raise _protocol(_DECODE_ERROR, "a ClientHello with a length that does not fit")
        if kind not in _READ:
            continue
        if kind in seen:
            raise _protocol(_ILLEGAL_PARAMETER, f"extension {kind} twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            sni = _server_name_untrusted(body[start:at])
        else:
            alpn = _alpn_untrusted(body[start:at])
    return ClientHello(sni, alpn, random)


def _server_name_untrusted(data: bytes) -> str:
    """Read a ServerNameList (RFC 6066 section 3): exactly one name, of type host_name."""
    start, stop = _vector_untrusted(data, 0, 2, len(data))
    if stop != len(data) or start == stop or data[start] != 0:
        raise _protocol(_DECODE_ERROR, "a malformed server name")
    start, stop = _vector_untrusted(data, start + 1, 2, len(data))
    name = data[start:stop]
    if stop != len(data) or not 0 < len(name) <= limits.SNI_B:
        raise _protocol(_DECODE_ERROR, "a malformed server name")
    if not _VISIBLE.fullmatch(name):
        raise _protocol(_ILLEGAL_PARAMETER, "a server name that is no host name")
    return name.decode("ascii").lower()


def _alpn_untrusted(data: bytes) -> bytes:
    """Read a ProtocolNameList (RFC 7301 section 3.1); names beyond what a border message holds are left out."""
    start, stop = _vector_untrusted(data, 0, 2, len(data))
    if stop != len(data) or start == stop:
        raise _protocol(_DECODE_ERROR, "a malformed list of application protocols")
    at, fits = start, start
    while at < stop:
        name, at = _vector_untrusted(data, at, 1, stop)
        if name == at:
            raise _protocol(_DECODE_ERROR, "an empty application protocol")
        if at - start <= limits.ALPN_B:
            fits = at
    return data[start:fits]
