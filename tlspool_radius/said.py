"""What an answer says: texts with bounds and without control characters, times, and what is sent back as it came.

It is read after its authenticators were found right.  An attribute that may be there once is not believed when it is
there twice; of those that may be there often the first ones count, and ``cut`` says that there were more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from tlspool_common import limits
from tlspool_common.messages_radius import Access
from tlspool_radius.packets import ACCESS_ACCEPT, ACCESS_CHALLENGE, BadPacket, Fault, Packet

T = TypeVar("T", str, bytes)


@dataclass(frozen=True, slots=True)
class Said:
    """The words of AccessTold, as far as they come from a server."""

    access: Access
    message: str = ""
    detail: str = ""
    user_name: str = ""
    classes: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()
    state: bytes = b""
    session_timeout_s: int = 0
    idle_timeout_s: int = 0
    interim_s: int = 0
    terminate: int = 0


def printable(raw: bytes, most_b: int) -> str:
    """Return text that fits into so many bytes, and cannot do anything to a terminal or a log."""
    text = raw[: 4 * most_b].decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text.encode()[:most_b].decode("utf-8", "ignore")
    words = [one if one.isprintable() else _escaped(one) for one in text]
    surplus_b = len("".join(words).encode()) - most_b
    while surplus_b > 0:
        surplus_b -= len(words.pop().encode())
    return "".join(words)


def _escaped(one: str) -> str:
    return f"\\x{ord(one):02x}" if ord(one) < 256 else f"\\u{ord(one):04x}"


def read_untrusted(found: Packet) -> Said:
    """Read an answer to an Access-Request.

    Raises:
        BadPacket: MALFORMED: an attribute cannot be what it should be.
    """
    message = printable(b" ".join(value for value in found.values("Reply-Message") if value), limits.RADIUS_MESSAGE_B)
    if found.code == ACCESS_CHALLENGE:
        return Said(Access.REJECTED, message, "the server wants to ask a question back (Access-Challenge)")
    if found.code != ACCESS_ACCEPT:
        return Said(Access.REJECTED, message)
    cut: list[str] = []
    terminate = number_untrusted(found, "Termination-Action")
    return Said(
        Access.ACCEPTED,
        message,
        user_name=printable(_single(found, "User-Name"), limits.RADIUS_VALUE_B),
        classes=_first(found.values("Class"), limits.RADIUS_CLASSES, "Class", cut),
        tags=tags_untrusted(found, cut),
        state=_single(found, "State"),
        session_timeout_s=number_untrusted(found, "Session-Timeout"),
        idle_timeout_s=number_untrusted(found, "Idle-Timeout"),
        interim_s=number_untrusted(found, "Acct-Interim-Interval"),
        terminate=int(terminate == 1),
        detail="; ".join(cut),
    )


def tags_untrusted(found: Packet, cut: list[str]) -> tuple[str, ...]:
    """Return the tags of a packet, each once; what is left out is told in ``cut``."""
    raw = [value for name in ("Filter-Id", "TLSPool-Tag") for value in found.values(name)]
    texts = dict.fromkeys(printable(value, limits.RADIUS_VALUE_B) for value in raw if value)
    return _first(texts, limits.RADIUS_TAGS, "tags", cut)


def _first(values: Iterable[T], most: int, what: str, cut: list[str]) -> tuple[T, ...]:
    found = [value for value in values if value]
    if len(found) > most:
        cut.append(f"{what}: {most} of {len(found)} count")
    return tuple(found[:most])


def _single(found: Packet, name: str) -> bytes:
    values = found.values(name)
    if len(values) > 1:
        raise BadPacket(Fault.MALFORMED, f"it has {len(values)} attributes {name}, which may be there once")
    return values[0] if values else b""


def number_untrusted(found: Packet, name: str) -> int:
    """Return the number that an attribute has, 0 if it is not there.

    Raises:
        BadPacket: MALFORMED: it is there twice, or has not four bytes.
    """
    if not found.values(name):
        return 0
    raw = _single(found, name)
    if len(raw) != 4:
        raise BadPacket(Fault.MALFORMED, f"{name} has {len(raw)} bytes where 4 are right")
    return int.from_bytes(raw)
