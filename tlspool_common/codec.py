"""Turn border messages into bytes and back.

A frame is one SOCK_SEQPACKET datagram, so it has neither a length nor a checksum:

    0      2          6
    +------+----------+-----------------------------+
    | code | exchange | fields, in declaration order |
    +------+----------+-----------------------------+
     U16    U32

All integers are big-endian.  A ``bytes`` or ``str`` field is a length (U16, or U32 when its bound is
above 65535) and that many bytes; ``str`` is UTF-8.  A ``tuple`` is a U16 count and its items.  ``bool``
is one byte, 0 or 1.  Nothing may follow the last field: there are no optional tails.

The bound of each field is part of its annotation (``Annotated[bytes, 1024]``), is checked in both
directions, and is the only place where it is written down.

A long message may have fields that are often the same as in an earlier one: those from its REPEATS on, as far as the
last one.  What these fields are in bytes, and the other way round, is remembered, up to a bound; nothing else changes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

HEADER = struct.Struct("!HI")


class BadFrame(Exception):
    """A frame, or a value to be put in one, breaks the table.  The only error of this module."""


@dataclass(frozen=True, slots=True)
class Bits:
    """Width of an unsigned integer on the wire."""

    width: int


@dataclass(frozen=True, slots=True)
class Items:
    """Bounds of a tuple: how many items, and how many bytes each."""

    count: int
    size_b: int


U8 = Annotated[int, Bits(8)]
U16 = Annotated[int, Bits(16)]
U32 = Annotated[int, Bits(32)]
U64 = Annotated[int, Bits(64)]

M = TypeVar("M")
Writer = Callable[[Any, bytearray], None]
Reader = Callable[[bytes, int], tuple[Any, int]]

_INTEGER = {8: struct.Struct("!B"), 16: struct.Struct("!H"), 32: struct.Struct("!I"), 64: struct.Struct("!Q")}


def _integer(bits: int) -> tuple[Writer, Reader]:
    beyond, size_b = 1 << bits, bits // 8
    pack = _INTEGER[bits].pack
    unpack_from = _INTEGER[bits].unpack_from

    def write(value: Any, out: bytearray) -> None:
        if not isinstance(value, int) or not 0 <= value < beyond:
            raise BadFrame(f"{value!r} is no unsigned {bits}-bit integer")
        out += pack(value)

    def read(frame: bytes, at: int) -> tuple[int, int]:
        end = at + size_b
        if end > len(frame):
            raise BadFrame("frame ends inside an integer")
        return unpack_from(frame, at)[0], end

    return write, read


def _boolean() -> tuple[Writer, Reader]:
    write_octet, read_octet = _integer(8)

    def write(value: Any, out: bytearray) -> None:
        write_octet(int(bool(value)), out)

    def read(frame: bytes, at: int) -> tuple[bool, int]:
        value, end = read_octet(frame, at)
        if value > 1:
            raise BadFrame(f"{value} is no boolean")
        return bool(value), end

    return write, read


def _enumeration(kind: type[IntEnum], bits: int) -> tuple[Writer, Reader]:
    write_integer, read_integer = _integer(bits)
    members = {int(member): member for member in kind}

    def read(frame: bytes, at: int) -> tuple[IntEnum, int]:
        value, end = read_integer(frame, at)
        member = members.get(value)
        if member is None:
            raise BadFrame(f"{value} is no {kind.__name__}")
        return member, end

    return write_integer, read


def _octets(bound_b: int) -> tuple[Writer, Reader]:
    # Lengths are written and read in here, not by _integer: there is one in nearly each field, and calls cost.
    length = _INTEGER[16 if bound_b < 1 << 16 else 32]
    pack, unpack_from, length_b = length.pack, length.unpack_from, length.size

    def write(value: Any, out: bytearray) -> None:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise BadFrame(f"{type(value).__name__} where bytes belong")
        size = len(value)
        if size > bound_b:
            raise BadFrame(f"{size} bytes where at most {bound_b} are allowed")
        out += pack(size)
        out += value

    def read(frame: bytes, at: int) -> tuple[bytes, int]:
        begin = at + length_b
        if begin > len(frame):
            raise BadFrame("frame ends inside an integer")
        size: int = unpack_from(frame, at)[0]
        end = begin + size
        if size > bound_b:
            raise BadFrame(f"{size} bytes announced where at most {bound_b} are allowed")
        if end > len(frame):
            raise BadFrame("frame ends inside a byte string")
        return frame[begin:end], end

    return write, read


def _text(bound_b: int) -> tuple[Writer, Reader]:
    write_octets, read_octets = _octets(bound_b)

    def write(value: Any, out: bytearray) -> None:
        if not isinstance(value, str):
            raise BadFrame(f"{type(value).__name__} where text belongs")
        try:
            write_octets(value.encode("utf-8"), out)
        except UnicodeEncodeError:
            raise BadFrame("text that is not Unicode") from None

    def read(frame: bytes, at: int) -> tuple[str, int]:
        value, end = read_octets(frame, at)
        try:
            return value.decode("utf-8"), end
        except UnicodeDecodeError:
            raise BadFrame("text that is not UTF-8") from None

    return write, read


def _several(item: type, bounds: Items) -> tuple[Writer, Reader]:
    write_count, read_count = _integer(16)
    write_item, read_item = _text(bounds.size_b) if item is str else _octets(bounds.size_b)

    def write(value: Any, out: bytearray) -> None:
        if not isinstance(value, tuple) or len(value) > bounds.count:
            raise BadFrame(f"no tuple of at most {bounds.count} items")
        if not value:
            out += b"\0\0"
            return
        write_count(len(value), out)
        for each in value:
            write_item(each, out)

    def read(frame: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        count, at = read_count(frame, at)
        if not count:
            return (), at
        if count > bounds.count:
            raise BadFrame(f"{count} items announced where at most {bounds.count} are allowed")
        values = []
        for _ in range(count):
            value, at = read_item(frame, at)
            values.append(value)
        return tuple(values), at

    return write, read


def _pair_for(hint: Any) -> tuple[Writer, Reader]:
    """Find writer and reader for one annotation; a table with an unknown one does not import."""
    if hint is bool:
        return _boolean()
    if get_origin(hint) is Annotated:
        base, bound, *_ = get_args(hint)
        if isinstance(bound, Bits):
            if isinstance(base, type) and issubclass(base, IntEnum):
                return _enumeration(base, bound.width)
            if base is int:
                return _integer(bound.width)
        if isinstance(bound, int) and base is bytes:
            return _octets(bound)
        if isinstance(bound, int) and base is str:
            return _text(bound)
        if isinstance(bound, Items) and get_origin(base) is tuple:
            return _several(get_args(base)[0], bound)
    raise TypeError(f"no wire form for {hint!r}")


Plan = tuple[tuple[str, Writer, Reader], ...]

_PLANS: dict[type, Plan] = {}


def plan(kind: type) -> Plan:
    """Return (field name, writer, reader) for each field of a message class, in wire order."""
    made = _PLANS.get(kind)
    if made is None:
        hints = get_type_hints(kind, include_extras=True)
        made = _PLANS[kind] = tuple((field.name, *_pair_for(hints[field.name])) for field in fields(kind))
    return made


REMEMBERED, REMEMBERED_B = 256, 8 * 1024
"""Repeated ends of messages of one class, each way, and the longest of them: some MiB at most."""


class _Repeats:
    """The end of a message class that repeats itself, and what is remembered of it.

    Values that are equal are written alike, and bytes that are equal read alike, so nothing gets old.
    """

    __slots__ = ("head", "read", "tail", "values", "written")

    def __init__(self, whole: Plan, first: str) -> None:
        names = [name for name, _, _ in whole]
        at = names.index(first)
        self.head, self.tail = whole[:at], whole[at:]
        self.values: Callable[[object], tuple[Any, ...]] = attrgetter(*names[at:])
        self.written: dict[tuple[tuple[Any, ...], tuple[type, ...]], bytes] = {}
        self.read: dict[bytes, dict[str, Any]] = {}


_REPEATS: dict[type, _Repeats | None] = {}


def _repeats(kind: type) -> _Repeats | None:
    try:
        return _REPEATS[kind]
    except KeyError:
        first = getattr(kind, "REPEATS", "")
        made = _REPEATS[kind] = _Repeats(plan(kind), first) if first else None
        return made


def _remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= REMEMBERED:
        known.clear()  # cheaper than to keep account of what was used last, and as good on the whole
    known[key] = value


def encode(code: int, exchange: int, message: object) -> bytes:
    """Write one frame.

    Raises:
        BadFrame: a field is out of its bounds; the text names message and field.
    """
    out = bytearray(HEADER.pack(code, exchange))
    repeats = _repeats(type(message))
    if repeats is None:
        _write(message, plan(type(message)), out)
        return bytes(out)
    _write(message, repeats.head, out)
    values = repeats.values(message)
    try:  # with the types: 1 and True are equal, and not the same in all fields
        key = values, tuple(map(type, values))
        known = repeats.written.get(key)
    except TypeError:  # a list, perhaps: the writer knows whether that will do
        _write(message, repeats.tail, out)
        return bytes(out)
    if known is None:
        begin = len(out)
        _write(message, repeats.tail, out)
        known = bytes(out[begin:])
        if len(known) <= REMEMBERED_B:
            _remember(repeats.written, key, known)
    else:
        out += known
    return bytes(out)


def _write(message: object, some: Plan, out: bytearray) -> None:
    name = ""
    try:
        for name, write, _ in some:
            write(getattr(message, name), out)
    except BadFrame as bad:
        raise BadFrame(f"{type(message).__name__}.{name}: {bad}") from None


def header_untrusted(frame: bytes | memoryview) -> tuple[int, int]:
    """Read (code, exchange) of a frame.

    Raises:
        BadFrame: the frame is shorter than a header.
    """
    if len(frame) < HEADER.size:
        raise BadFrame(f"{len(frame)} bytes are no frame")
    code, exchange = HEADER.unpack_from(frame)
    return code, exchange


def decode_untrusted(kind: type[M], frame: bytes | memoryview) -> M:
    """Read the fields of a frame whose code is known to mean ``kind``.

    Raises:
        BadFrame: any field is short, beyond its bound or malformed, or bytes are left over.
    """
    data = bytes(frame)  # bytes are not copied
    values: dict[str, Any] = {}
    repeats = _repeats(kind)
    if repeats is None:
        _read(kind, plan(kind), data, HEADER.size, values, is_end=True)
        return kind(**values)
    end = data[_read(kind, repeats.head, data, HEADER.size, values) :]
    known = repeats.read.get(end)
    if known is None:
        known = {}
        _read(kind, repeats.tail, end, 0, known, is_end=True)
        if len(end) <= REMEMBERED_B:
            _remember(repeats.read, end, known)
    return kind(**values, **known)


def _read(kind: type, some: Plan, data: bytes, at: int, values: dict[str, Any], *, is_end: bool = False) -> int:
    name = ""
    try:
        for name, _, read in some:
            values[name], at = read(data, at)
    except BadFrame as bad:
        raise BadFrame(f"{kind.__name__}.{name}: {bad}") from None
    if is_end and at != len(data):
        raise BadFrame(f"{kind.__name__}: {len(data) - at} bytes left over")
    return at
