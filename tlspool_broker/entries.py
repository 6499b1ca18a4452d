"""Records of one key as a database has them: those that parse, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from tlspool_broker import records
from tlspool_common.errors import PoolError

R = TypeVar("R")


class Name(StrEnum):
    """A database of the environment."""

    LOCALID = "localid"
    DISCLOSE = "disclose"
    TRUST = "trust"
    POLICY = "policy"
    GENERATION = "generation"
    HISTORY = "history"


CONTENT = (Name.LOCALID, Name.DISCLOSE, Name.TRUST, Name.POLICY)
"""What an operator writes; the others are book-keeping."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """The records of one key that parse, in order, and what is wrong with the others."""

    key: bytes
    good: tuple[R, ...]
    bad: tuple[PoolError, ...]


def shown_key(name: Name, key: bytes) -> str:
    """Return a key as people see it: text, or hexadecimal for key identifiers."""
    return key.hex() if name is Name.TRUST else key.decode("utf-8", "backslashreplace")


def located(error: PoolError, name: Name, key: bytes) -> PoolError:
    """Return an error with the place of the record in front."""
    return PoolError(error.code, f"{name} {shown_key(name, key)}: {error.detail}")


def read_entry(name: Name, key: bytes, values: Sequence[bytes], decode: Callable[[bytes], R]) -> Entry[R]:
    """Decode the records of a key."""
    good, bad = [], []
    for value in values:
        try:
            good.append(decode(value))
        except PoolError as error:
            bad.append(located(error, name, key))
    return Entry(key, tuple(good), tuple(bad))


def without(values: Sequence[bytes], mask: int, kind: int, roles: int) -> list[bytes]:
    """Return records less those of a kind for roles (none named: all); one with a role left over keeps that."""
    kept = []
    for value in values:
        flags = records.flags_untrusted(value)
        if flags is None:
            continue  # too short to be anything
        if flags & mask != kind or (roles and not flags & roles):
            kept.append(value)
        elif roles and (left := flags & records.ROLE_MASK & ~roles):
            kept.append(records.with_flags(value, flags & ~records.ROLE_MASK | left))
    return kept
