"""Requests that wait for room in a token process: workers take turns.

A worker belongs to one user (isolation application).  One that wants many signatures at once has its own wait for
each other, and those of others go between them.  Each user has at most as many turns as workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class Owned(Protocol):
    """Something that a worker wants."""

    owner: int


_Owned = TypeVar("_Owned", bound=Owned)


class Shares(Generic[_Owned]):
    """A queue for each worker; otherwise it is used like a deque."""

    def __init__(self) -> None:
        self._by_owner: dict[int, deque[_Owned]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_owner)

    def __iter__(self) -> Iterator[_Owned]:
        for queue in self._by_owner.values():
            yield from queue

    def append(self, one: _Owned) -> None:
        """Let a request wait behind those of the same worker."""
        self._by_owner.setdefault(one.owner, deque()).append(one)

    def extend(self, ones: Iterable[_Owned]) -> None:
        """Let requests wait, in this order."""
        for one in ones:
            self.append(one)

    def popleft(self) -> _Owned:
        """Return the first request of the worker whose turn it is; the worker goes behind the others."""
        owner = next(iter(self._by_owner))
        queue = self._by_owner.pop(owner)
        one = queue.popleft()
        if queue:
            self._by_owner[owner] = queue
        return one

    def clear(self) -> None:
        """Let none wait any more."""
        self._by_owner.clear()
