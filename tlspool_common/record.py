"""Records: dataclasses that nobody changes, made at half the cost of frozen ones.

``@dataclass(frozen=True)`` sets each field through a call, and a handshake makes some hundred events, effects and
messages: that was up to a tenth of a daemon's time.  A record is frozen for the type checker only (PEP 681): an
assignment to a field is an error of ``make check``, and nothing watches for it while a program runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """Make a class a record: compared and hashed by its fields, without a dictionary."""
    return dataclass(slots=True, unsafe_hash=True)(kind)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def named_record(kind: type[T]) -> type[T]:
    """Make a class a record whose fields are given by name: a message of a border."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=True)(kind)
