"""The generation, and the history, as the environment keeps them: in the transaction that they are about.

generation.db    generation   U64    the number of the current state
                 trust        U64    the generation that last changed an anchor
                 oldest       U64    the oldest record of the history
                 first uses   U64    how many generations strangers have made, by trust on first use
history.db       U64                 history.py
"""

from __future__ import annotations

import struct

from tlspool_broker import history, records
from tlspool_broker.entries import Name
from tlspool_broker.environment import View
from tlspool_broker.history import By, Change, Values
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError

GENERATION, TRUST, OLDEST, FIRST_USES = b"generation", b"trust", b"oldest", b"first uses"

FIRST_USE = "trust.pin"
"""The command of a change that nobody has asked for."""

_DROPPED_AT_ONCE = 100
"""Oldest records of the history that one change drops: more than one only when the history is to be shorter."""

_COUNT = struct.Struct("!Q")

_MOST = 1 << 48
"""A number beyond that was never counted: nobody changes something a million times a second for nine years."""


def count(view: View, key: bytes, default: int = 1) -> int:
    """Return one of the numbers.

    Raises:
        PoolError: DATABASE, what is there is none: to count from 1 again would give old numbers to new states.
    """
    values = view.values(Name.GENERATION, key)
    if not values:
        return default
    found = int(_COUNT.unpack(values[0])[0]) if len(values) == 1 and len(values[0]) == _COUNT.size else 0
    if not 0 < found < _MOST:
        what = f"generation.db is damaged: {key.decode()} is {values[0][:16].hex() or 'empty'}"
        raise PoolError(Code.DATABASE, f"{what}; restore it, or move it and history.db away")
    return found


def oldest(view: View) -> int:
    """Return the first generation that the history has a record of; one more than the current one if it has none."""
    return count(view, OLDEST, count(view, GENERATION) + 1)


def close_generation(view: View, by: By, time_s: int, keep: int) -> None:
    """Number what a transaction has changed, if it has, and write it down."""
    changes = dict(view.changes)
    if not changes:
        return
    # Strangers who have themselves pinned, each in a generation, must not push out what operators have done.
    first_uses = count(view, FIRST_USES, 0)
    if by.uid == history.NOBODY and by.command == FIRST_USE:
        first_uses += 1
        view.replace(Name.GENERATION, FIRST_USES, [_COUNT.pack(first_uses)])
    keep += min(first_uses, limits.PINS)
    first = oldest(view)
    generation = count(view, GENERATION) + 1
    change = Change(generation, time_s, by, changes)
    view.replace(Name.HISTORY, history.key_of(generation), [change.encode()])
    for _ in range(_DROPPED_AT_ONCE):
        if generation - first < keep:
            break
        view.replace(Name.HISTORY, history.key_of(first), [])
        first += 1
    view.replace(Name.GENERATION, OLDEST, [_COUNT.pack(first)])
    view.replace(Name.GENERATION, GENERATION, [_COUNT.pack(generation)])
    if any(
        name is Name.TRUST and _anchors(before) != _anchors(after) for (name, _), (before, after) in changes.items()
    ):
        view.replace(Name.GENERATION, TRUST, [_COUNT.pack(generation)])


def _anchors(values: Values) -> list[bytes]:
    """Return the records that are, or may be, anchors."""
    other = records.TRUST_REVOKED | records.TRUST_PINNED
    return [value for value in values if not (records.flags_untrusted(value) or 0) & other]


def changes(view: View, first: int, last: int) -> list[Change]:
    """Return what made these generations, oldest first.

    Raises:
        PoolError: GENERATION_UNKNOWN, RECORD_MALFORMED.
    """
    start, current = oldest(view), count(view, GENERATION)
    if not start <= first <= last + 1 or last > current:
        # What made generation N is known for all but the first that is known itself.
        wrong = last if last > current else first
        raise PoolError(Code.GENERATION_UNKNOWN, f"{wrong}; there are {start} to {current}")
    return _read(view, first, last)


def since(view: View, generation: int, last: int | None = None) -> list[Change]:
    """Return what has made, out of one generation, another one (the current one), oldest first.

    Raises:
        PoolError: GENERATION_UNKNOWN, RECORD_MALFORMED.
    """
    start, current = oldest(view) - 1, count(view, GENERATION)
    last = current if last is None else last
    for wrong in (generation, last):
        if not start <= wrong <= current:
            raise PoolError(Code.GENERATION_UNKNOWN, f"{wrong}; there are {start} to {current}")
    return _read(view, generation + 1, last)


def _read(view: View, first: int, last: int) -> list[Change]:
    found = []
    for generation in range(first, last + 1):
        values = view.values(Name.HISTORY, history.key_of(generation))
        found.append(history.decode_untrusted(generation, values[0] if values else b""))
    return found
