"""Change DER and leave it DER: an element is changed, and the lengths of all around it are made to fit.

Octets changed at random are refused by the first length that does not fit; these changes reach what is inside.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONSTRUCTED, _OCTETS = 0x20, 0x04
_TAGS = (
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x0A,
    0x0C,
    0x13,
    0x16,
    0x17,
    0x18,
    0x30,
    0x31,
    0x80,
    0x81,
    0x82,
    0x86,
    0xA0,
)
MANNERS = ("body", "octet", "tag", "delete", "double", "other", "empty")


@dataclass(frozen=True, slots=True)
class Node:
    """An element: where it begins, where its contents do, where it ends; and what it is in, outermost first."""

    at: int
    body: int
    end: int
    around: tuple[Node, ...]


def nodes(data: bytes) -> list[Node]:
    """Return all elements; [] where it is no DER.  OCTET STRINGs are looked into where they hold elements."""
    found: list[Node] = []
    return found if _walk(data, 0, len(data), (), found) else []


def _walk(data: bytes, at: int, end: int, around: tuple[Node, ...], found: list[Node]) -> bool:
    while at < end:
        if at + 2 > end or data[at] & 0x1F == 0x1F or len(around) > 20:
            return False
        body, size = at + 2, data[at + 1]
        if size & 0x80:
            octets = size & 0x7F
            size = int.from_bytes(data[body : body + octets])
            body += octets
            if not 1 <= octets <= 3:
                return False
        if body + size > end:
            return False
        node = Node(at, body, body + size, around)
        found.append(node)
        if data[at] & _CONSTRUCTED or (data[at] == _OCTETS and size > 2):
            inner: list[Node] = []
            if _walk(data, body, node.end, (*around, node), inner):
                found += inner
        at = node.end
    return True


def element(tag: int, body: bytes) -> bytes:
    """Write an element."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + body


def replaced(data: bytes, node: Node, new: bytes) -> bytes:
    """Return all of it with something else in the place of an element."""
    start, end = node.at, node.end
    for outer in reversed(node.around):
        new = element(data[outer.at], data[outer.body : start] + new + data[end : outer.end])
        start, end = outer.at, outer.end
    return data[:start] + new + data[end:]


def edited(data: bytes, manner: str, where: int, amount: int, piece: bytes) -> bytes:
    """Change one element; what is no DER stays as it is."""
    found = nodes(data)
    if not found:
        return data
    node = found[where % len(found)]
    tag, body, whole = data[node.at], data[node.body : node.end], data[node.at : node.end]
    if manner == "body":
        new = element(tag, piece)
    elif manner == "octet" and body:
        at = amount % len(body)
        new = element(tag, body[:at] + piece[:1] + body[at + 1 :])
    elif manner == "tag":
        new = element(_TAGS[amount % len(_TAGS)], body)
    elif manner == "delete":
        new = b""
    elif manner == "double":
        new = whole + whole
    elif manner == "other":
        other = found[amount % len(found)]
        new = data[other.at : other.end]
    else:
        new = element(tag, b"")
    return replaced(data, node, new)
