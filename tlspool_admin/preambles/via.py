"""Ways through a proxy to the server: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS 5 (RFC 1928, RFC 1929).

The proxy looks up the name of the server.  What the server says first may come together with the last answer of the
proxy; it is left to the script that follows.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from tlspool_admin.preambles.lines import encoded, line, quoted
from tlspool_admin.preambles.script import LINES, Need, Refused, Say, Side, Step

Way = Generator[Step, bytes, None]

_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_SOCKS_ERRORS = (
    "", "general failure", "its rules forbid it", "network unreachable", "host unreachable", "connection refused",
    "time to live expired", "command not supported", "address type not supported",
)  # fmt: skip
"""By number (RFC 1928 section 6)."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the proxy is to connect to, and what it is told so that it does."""

    host: str
    port: int
    user: str = ""
    password_secret: str = field(default="", repr=False)


def connect(target: Target) -> Way:
    """Ask an HTTP proxy."""
    side = Side.CRYPT
    host = f"[{target.host}]" if ":" in target.host else target.host
    request = f"CONNECT {host}:{target.port} HTTP/1.1\r\nHost: {host}:{target.port}"
    if target.user:
        pair = base64.b64encode(f"{target.user}:{target.password_secret}".encode()).decode()
        request += f"\r\nProxy-Authorization: Basic {pair}"
    yield Say(side, encoded(request + "\r\n"))
    first = yield from line(side)
    status = _STATUS.fullmatch(first)
    if status is None:
        raise Refused(side, f"no answer of an HTTP proxy: {quoted(first)}")
    if status[1][0] != "2":
        raise Refused(side, f"the proxy answered with {quoted(first)}")
    for _ in range(LINES):
        if not (yield from line(side)):
            return  # an answer to CONNECT has no body, whatever its header says (RFC 9110 section 9.3.6)
    raise Refused(side, f"an answer with more than {LINES} lines")


def socks5(target: Target) -> Way:
    """Ask a SOCKS 5 proxy."""
    side = Side.CRYPT
    method = 2 if target.user else 0
    yield Say(side, bytes((5, 1, method)))
    version, chosen = yield Need(side, 2)
    if version != 5:
        raise Refused(side, "no answer of a SOCKS 5 proxy")
    if chosen != method:
        raise Refused(side, "the proxy wants another way to log in")
    if method:
        user, password_secret = target.user.encode(), target.password_secret.encode()
        yield Say(side, bytes((1, len(user))) + user + bytes((len(password_secret),)) + password_secret)
        answer = yield Need(side, 2)
        if answer[1] != 0:
            raise Refused(side, "the proxy does not accept user and password")
    yield Say(side, b"\x05\x01\x00" + _socks_address(target.host) + struct.pack(">H", target.port))
    answer = yield Need(side, 4)
    if answer[0] != 5:
        raise Refused(side, "no answer of a SOCKS 5 proxy")
    if answer[1] != 0:
        known = _SOCKS_ERRORS[answer[1]] if answer[1] < len(_SOCKS_ERRORS) else "no reason known"
        raise Refused(side, f"the proxy answered with {answer[1]}: {known}")
    size_b = {1: 4, 4: 16}.get(answer[3])
    if answer[3] == 3:
        size_b = (yield Need(side, 1))[0]
    if size_b is None:
        raise Refused(side, f"the proxy sent an address of kind {answer[3]}")
    yield Need(side, size_b + 2)


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes((3, len(name))) + name
    return bytes((1 if address.version == 4 else 4,)) + address.packed


WAYS: dict[str, Callable[[Target], Way]] = {"http": connect, "socks5": socks5}
"""By the scheme of ``--via``."""
