"""Change DER and leave it DER: an element is changed, and the lengths of all around it are made to fit.

Octets changed at random are refused by the first length that does not fit; these changes reach what is inside.
"""

from __future__ import annotations

_CONSTRUCTED, _OCTETS = 0x20, 0x04
_DEEPEST = 20
_LONG_B = 12
"""What has more octets of its own is chosen by its first ones only, or keys and signatures would be chosen always."""

_TRIES = 4
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

Node = tuple[int, int, int]
"""An element: where it begins, where its contents do, where it ends."""


def path(data: bytes, where: int) -> list[Node]:
    """Return the elements around an octet, outermost first; [] where the elements up to it are no DER.

    OCTET STRINGs are looked into where they hold elements.  Only what stands before the octet is walked over, not all
    there is: this is done for every mutant.
    """
    found: list[Node] = []
    at, end = 0, len(data)
    while True:
        # One element after the other, up to that in which the octet is.
        while True:
            if at + 2 > end:
                return found
            tag, size = data[at], data[at + 1]
            body = at + 2
            if size & 0x80:
                octets = size & 0x7F
                size = int.from_bytes(data[body : body + octets])
                body += octets
                if not 1 <= octets <= 3:
                    return found
            stop = body + size
            if stop > end or tag & 0x1F == 0x1F:
                return found
            if where < stop:
                break
            at = stop
        found.append((at, body, stop))
        if where < body or len(found) > _DEEPEST:
            return found
        if not (tag & _CONSTRUCTED or (tag == _OCTETS and size > 2 and _holds_elements(data, body, stop))):
            return found
        at, end = body, stop


def _holds_elements(data: bytes, at: int, end: int) -> bool:
    """Whether elements follow each other up to the very end."""
    while at + 2 <= end:
        size = data[at + 1]
        if data[at] & 0x1F == 0x1F:
            return False
        at += 2
        if size & 0x80:
            octets = size & 0x7F
            if not 1 <= octets <= 3:
                return False
            size = int.from_bytes(data[at : at + octets])
            at += octets
        at += size
    return at == end


def chosen(data: bytes, where: int) -> list[Node]:
    """Return the path to an element, each about as likely as another, by a number of 20 bits."""
    found: list[Node] = []
    for _ in range(_TRIES):
        place = where % len(data) if data else 0
        found = path(data, place)
        if not found or place - found[-1][0] < _LONG_B:
            break
        where = where * 1103515245 + 12345 >> 4 & 0xFFFFF
    return found


def element(tag: int, body: bytes) -> bytes:
    """Write an element."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + body


def replaced(data: bytes, around: list[Node], new: bytes) -> bytes:
    """Return all of it with something else in the place of the innermost element of a path."""
    start, _, end = around[-1]
    for at, body, stop in reversed(around[:-1]):
        new = element(data[at], data[body:start] + new + data[end:stop])
        start, end = at, stop
    return data[:start] + new + data[end:]


def edited(data: bytes, manner: str, where: int, amount: int, piece: bytes) -> bytes:
    """Change one element; what is no DER stays as it is."""
    around = chosen(data, where)
    if not around:
        return data
    at, inside, end = around[-1]
    tag, body, whole = data[at], data[inside:end], data[at:end]
    if manner == "body":
        new = element(tag, piece)
    elif manner == "octet" and body:
        place = amount % len(body)
        new = element(tag, body[:place] + piece[:1] + body[place + 1 :])
    elif manner == "tag":
        new = element(_TAGS[amount % len(_TAGS)], body)
    elif manner == "delete":
        new = b""
    elif manner == "double":
        new = whole + whole
    elif manner == "other":
        other = chosen(data, amount * 4099)
        new = data[other[-1][0] : other[-1][2]] if other else b""
    else:
        new = element(tag, b"")
    return replaced(data, around, new)
