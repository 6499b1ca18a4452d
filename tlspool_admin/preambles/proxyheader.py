"""The PROXY protocol: where a connection really comes from, in front of its first byte.

    version 1    PROXY TCP4 192.0.2.7 198.51.100.1 50412 443\\r\\n

    version 2    0            12        13       14        16
                 +------------+---------+--------+---------+-----------+------+
                 | signature  | ver,cmd | family | length  | addresses | TLVs |
                 +------------+---------+--------+---------+-----------+------+

It is read to its last byte and no further: behind it comes a ClientHello, which is not ours.  A header proves nothing:
it is for a front end that nobody can pass by.

Version 2 tells the backend who the remote is, too, in the TLV that HAProxy made for it: PP2_TYPE_SSL with
PP2_SUBTYPE_SSL_CN, where Dovecot, nginx and others look for a verified name.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Generator
from dataclasses import dataclass

from tlspool_admin.preambles.lines import quoted
from tlspool_admin.preambles.script import Need, NeedUntil, Refused, Side, Step

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_B = 107
"""Longest line of version 1, by its specification, with CRLF."""

V2_B = 2048
"""Longest rest of version 2: addresses of UNIX sockets have 216, TLVs of HAProxy some hundred more."""

_UNIX_B = 108
_TYPE_SSL, _SUBTYPE_CN = 0x20, 0x22
_CLIENT_SSL, _CLIENT_CERT_CONN = 0x01, 0x02

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from, and where it went."""

    source: Address
    destination: Address


@dataclass(frozen=True, slots=True)
class Proved:
    """What TLS told: who the remote is; '' if it was not asked, or had nothing to show."""

    remoteid: str


def read(side: Side) -> Generator[Step, bytes, Origin | None]:
    """Hear a header of either version.  None: the front end speaks for itself, or does not know."""
    head = yield Need(side, 6)
    if head == b"PROXY ":
        rest = yield NeedUntil(side, b"\r\n", V1_B - 6, exact=True)
        return _v1_untrusted(side, rest)
    if head != SIGNATURE[:6]:
        raise Refused(side, f"no PROXY header, but {quoted(head.decode('ascii', 'replace'))}")
    head += yield Need(side, 10)
    version, family, size_b = struct.unpack_from(">BBH", head, 12)
    if head[:12] != SIGNATURE or version not in (0x20, 0x21) or size_b > V2_B:
        raise Refused(side, "malformed PROXY header of version 2")
    rest = (yield Need(side, size_b)) if size_b else b""
    if version == 0x20:
        return None
    try:
        return _v2_untrusted(family, rest)
    except ValueError:
        raise Refused(side, "malformed PROXY header of version 2") from None


def _v1_untrusted(side: Side, data: bytes) -> Origin | None:
    words = data.decode("ascii", "replace").removesuffix("\r\n").split(" ")
    if words[0] == "UNKNOWN":
        return None
    try:
        kind = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[words[0]]
        _, source, destination, source_port, destination_port = words
        if "%" in source + destination:  # a scope is of a host only, and may be any text, which would be written on
            raise ValueError("an address with a scope")
        return Origin((str(kind(source)), _port(source_port)), (str(kind(destination)), _port(destination_port)))
    except (KeyError, ValueError):
        raise Refused(side, f"malformed PROXY header: {quoted(' '.join(words))}") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError("no port")
    return int(text)


def _v2_untrusted(family: int, rest: bytes) -> Origin | None:
    size_b = {0x11: 4, 0x21: 16}.get(family)
    if size_b is None:
        return None  # UNIX sockets have no address to tell; the specification has unknown families ignored
    if len(rest) < 2 * size_b + 4:
        raise ValueError("too short")
    source, destination = (str(ipaddress.ip_address(rest[at : at + size_b])) for at in (0, size_b))
    source_port, destination_port = struct.unpack_from(">HH", rest, 2 * size_b)
    return Origin((source, source_port), (destination, destination_port))


def origin_of(sock: socket.socket) -> Origin | None:
    """Return the two ends of an accepted socket; None for UNIX sockets, and for one that is gone."""
    try:
        source, destination = sock.getpeername(), sock.getsockname()
    except OSError:
        return None
    if not (isinstance(source, tuple) and isinstance(destination, tuple)):
        return None
    return Origin((source[0].split("%")[0], source[1]), (destination[0].split("%")[0], destination[1]))


def write(version: str, origin: Origin | None, proved: Proved | None = None) -> bytes:
    """Return a header of version ``v1`` or ``v2``; with ``proved`` the second tells who the remote is."""
    if version == "v1":
        if origin is None:
            return b"PROXY UNKNOWN\r\n"
        kind = "TCP6" if ":" in origin.source[0] else "TCP4"
        (source, source_port), (destination, destination_port) = origin.source, origin.destination
        return f"PROXY {kind} {source} {destination} {source_port} {destination_port}\r\n".encode()
    family, body = 0x00, b""
    if origin is not None:
        ends = [ipaddress.ip_address(address) for address, _ in (origin.source, origin.destination)]
        family = 0x21 if ends[0].version == 6 else 0x11
        body = b"".join(end.packed for end in ends)
        body += struct.pack(">HH", origin.source[1], origin.destination[1])
    if proved is not None:
        body += _proved_tlv(proved)
    return SIGNATURE + struct.pack(">BBH", 0x21, family, len(body)) + body


def _proved_tlv(proved: Proved) -> bytes:
    name = proved.remoteid.encode()
    flags = _CLIENT_SSL | (_CLIENT_CERT_CONN if name else 0)
    value = struct.pack(">BI", flags, 0 if name else 1)  # 0: the certificate was verified
    value += struct.pack(">BH", _SUBTYPE_CN, len(name)) + name if name else b""
    return struct.pack(">BH", _TYPE_SSL, len(value)) + value
