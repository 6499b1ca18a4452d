"""A second reader of border messages, written from the head of codec.py, slow and plain: the oracle of its targets."""

from __future__ import annotations

from collections.abc import Callable
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


Reader = Callable[[bytes, int], tuple[Any, int]]
"""Takes a frame and an offset; returns a value, and where the next one begins.  It may be beyond the end."""


def values(kind: type, frame: bytes) -> dict[str, Any]:
    """Return the fields of a frame by name; raises NotOne."""
    at = 6
    found = {}
    for name, read in _readers(kind):
        found[name], at = read(frame, at)
        if at > len(frame):
            raise NotOne("too short")
    if at != len(frame):
        raise NotOne("bytes left over")
    return found


@cache
def _readers(kind: type) -> list[tuple[str, Reader]]:
    return [(name, _reader(hint)) for name, hint in _hints(kind)]


def _reader(hint: Any) -> Reader:
    if hint is bool:
        return _one_of({0: False, 1: True}, 1)
    assert get_origin(hint) is Annotated
    base, bound = get_args(hint)[:2]
    if isinstance(bound, Bits):
        size = bound.width // 8
        if issubclass(base, IntEnum):
            return _one_of({int(member): member for member in base}, size)
        return lambda data, at: (int.from_bytes(data[at : at + size], "big"), at + size)
    if isinstance(bound, Items):
        return _list(_string(bound.size_b, get_args(base)[0] is str), bound.count)
    return _string(bound, base is str)


def _one_of(known: dict[int, Any], size: int) -> Reader:
    members = {number.to_bytes(size, "big"): value for number, value in known.items()}

    def read(data: bytes, at: int) -> tuple[Any, int]:
        end = at + size
        try:
            return members[data[at:end]], end
        except KeyError:
            raise NotOne("no such value") from None

    return read


def _string(bound: int, is_text: bool) -> Reader:
    length_b = 2 if bound <= 0xFFFF else 4

    def read(data: bytes, at: int) -> tuple[Any, int]:
        begin = at + length_b
        size = int.from_bytes(data[at:begin], "big")
        end = begin + size
        if size > bound or end > len(data):
            raise NotOne("too long, or too short")
        body = data[begin:end]
        try:
            return (str(body, "utf-8") if is_text else body), end
        except UnicodeDecodeError:
            raise NotOne("no UTF-8") from None

    return read


def _list(read_one: Reader, most: int) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        count, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        if count > most or at > len(data):
            raise NotOne("too many, or too short")
        found = []
        for _ in range(count):
            one, at = read_one(data, at)
            found.append(one)
        return tuple(found), at

    return read


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
