"""A second reader of border messages, written from the head of codec.py, slow and plain: the oracle of its targets."""

from __future__ import annotations

from dataclasses import fields
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tlspool_common.codec import Bits, Items


class NotOne(Exception):
    """These bytes are no message of this class."""


@cache
def _hints(kind: type) -> list[tuple[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return [(field.name, hints[field.name]) for field in fields(kind)]


def values(kind: type, frame: bytes) -> dict[str, Any]:
    """Return the fields of a frame by name; raises NotOne."""
    rest = frame[6:]
    found = {}
    for name, hint in _hints(kind):
        found[name], rest = _value(hint, rest)
    if rest:
        raise NotOne("bytes left over")
    return found


def _cut(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise NotOne("too short")
    return data[:size], data[size:]


def _number(data: bytes, bits: int) -> tuple[int, bytes]:
    head, rest = _cut(data, bits // 8)
    return int.from_bytes(head, "big"), rest


def _string(data: bytes, bound: int, is_text: bool) -> tuple[bytes | str, bytes]:
    size, rest = _number(data, 16 if bound <= 0xFFFF else 32)
    if size > bound:
        raise NotOne("too long")
    body, rest = _cut(rest, size)
    try:
        return (str(body, "utf-8") if is_text else body), rest
    except UnicodeDecodeError:
        raise NotOne("no UTF-8") from None


def _value(hint: Any, data: bytes) -> tuple[Any, bytes]:
    if hint is bool:
        number, rest = _number(data, 8)
        if number not in (0, 1):
            raise NotOne("no boolean")
        return number == 1, rest
    assert get_origin(hint) is Annotated
    base, bound = get_args(hint)[:2]
    if isinstance(bound, Bits):
        number, rest = _number(data, bound.width)
        if issubclass(base, IntEnum):
            if number not in [int(member) for member in base]:
                raise NotOne("no such member")
            return base(number), rest
        return number, rest
    if isinstance(bound, Items):
        count, rest = _number(data, 16)
        if count > bound.count:
            raise NotOne("too many")
        found = []
        for _ in range(count):
            one, rest = _string(rest, bound.size_b, get_args(base)[0] is str)
            found.append(one)
        return tuple(found), rest
    return _string(data, bound, base is str)


def sample(kind: type, size: int) -> Any:
    """Return a message with strings of about so many octets, and numbers and lists to match."""
    return kind(**{name: _sample(hint, size) for name, hint in _hints(kind)})


def _sample(hint: Any, size: int) -> Any:
    if hint is bool:
        return size > 0
    base, bound = get_args(hint)[:2]
    if isinstance(bound, Bits):
        return list(base)[size % len(base)] if issubclass(base, IntEnum) else size
    if isinstance(bound, Items):
        one = b"x" * min(size, bound.size_b)
        return ((one.decode() if get_args(base)[0] is str else one),) * min(size, 2, bound.count)
    return ("é" * (min(size, bound) // 2)) if base is str else b"y" * min(size, bound)
