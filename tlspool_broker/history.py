"""The history of the databases: what each generation changed, by whom, when and why.

Kept beside what it is about, written in the same transaction.  One record a generation, under its number (U64):

    | format U8 = 1 | time U64 | uid U32 | command | author | reason | number of keys U32 |
    then for each key
    | database U8 | key | before: U32, values | after: U32, each an index U32 into before, or a value |

Texts and values are a length (U32) and bytes, texts are UTF-8.  In *after* a value that was there before is
0x80000000 plus its index, so that records which stay are stored once.

Undoing works backwards: what a key had in generation G is what the first change after G found there.
Nothing here opens a database.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tlspool_broker.entries import CONTENT, Name
from tlspool_broker.records import malformed

NOBODY = 0xFFFFFFFF
"""The pool itself, not a user."""

Place = tuple[Name, bytes]
"""A database and a key in it."""

Values = tuple[bytes, ...]
"""The records of a key, in their order."""

_HEAD = struct.Struct("!BQI")
_U32 = struct.Struct("!I")
_FORMAT = 1
_SAME = 0x80000000


@dataclass(frozen=True, slots=True)
class By:
    """Who changes something, with which command, and why; ``author`` is whom that user says to act for."""

    uid: int = NOBODY
    command: str = ""
    author: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What made a generation."""

    generation: int
    time_s: int
    by: By
    changes: Mapping[Place, tuple[Values, Values]]

    def encode(self) -> bytes:
        """Write the record; its generation is its key."""
        out = bytearray(_HEAD.pack(_FORMAT, self.time_s, self.by.uid))
        for text in (self.by.command, self.by.author, self.by.reason):
            _put(out, text.encode())
        out += _U32.pack(len(self.changes))
        for (name, key), (before, after) in self.changes.items():
            out.append(CONTENT.index(name))
            _put(out, key)
            out += _U32.pack(len(before))
            for value in before:
                _put(out, value)
            out += _U32.pack(len(after))
            places = {value: number for number, value in enumerate(before)}
            for value in after:
                if value in places:
                    out += _U32.pack(_SAME | places[value])
                else:
                    _put(out, value)
        return bytes(out)


def key_of(generation: int) -> bytes:
    """Return the key of a generation's record."""
    return generation.to_bytes(8, "big")


def decode_untrusted(generation: int, data: bytes) -> Change:
    """Read a record.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    try:
        return _Reader(data).change(generation)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise malformed(f"history {generation}: the record is damaged") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def change(self, generation: int) -> Change:
        form, time_s, uid = _HEAD.unpack_from(self._data)
        if form != _FORMAT:
            raise malformed(f"history {generation}: format {form}, not {_FORMAT}; a newer pool has written it")
        self._at = _HEAD.size
        by = By(uid, self._value().decode(), self._value().decode(), self._value().decode())
        changes: dict[Place, tuple[Values, Values]] = {}
        for _ in range(self._number()):
            name = CONTENT[self._bytes(1)[0]]
            key = self._value()
            before = tuple([self._value() for _ in range(self._number())])
            after = tuple([self._after(before) for _ in range(self._number())])
            changes[name, key] = before, after
        if self._at != len(self._data):
            raise IndexError
        return Change(generation, time_s, by, changes)

    def _number(self) -> int:
        number: int = _U32.unpack_from(self._data, self._at)[0]
        self._at += _U32.size
        return number

    def _bytes(self, size_b: int) -> bytes:
        begin = self._at
        self._at = end = begin + size_b
        if end > len(self._data):
            raise IndexError
        return self._data[begin:end]

    def _value(self) -> bytes:
        return self._bytes(self._number())

    def _after(self, before: Values) -> bytes:
        number = self._number()
        return before[number & ~_SAME] if number & _SAME else self._bytes(number)


def _put(out: bytearray, data: bytes) -> None:
    out += _U32.pack(len(data))
    out += data


def net(changes: Iterable[Change]) -> dict[Place, tuple[Values, Values]]:
    """Return what several changes, oldest first and without a gap, come to: by key before all and after all."""
    found: dict[Place, tuple[Values, Values]] = {}
    for change in changes:
        for place, (before, after) in change.changes.items():
            first = found[place][0] if place in found else before
            found[place] = first, after
    return {place: pair for place, pair in found.items() if pair[0] != pair[1]}


def gone_and_added(before: Values, after: Values) -> tuple[list[bytes], list[bytes]]:
    """Return the records of a key that have gone and those that have come; none of both: the order is another."""
    had, has = Counter(before), Counter(after)
    return list((had - has).elements()), list((has - had).elements())
