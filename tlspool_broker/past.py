"""The databases as they were in a generation that is over.

A *past* has what was there before the first change after its generation, by key; for all other keys the present
will do.  As the present moves on, the past looks up what has changed since and keeps what was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from tlspool_broker.entries import Name
from tlspool_broker.environment import View
from tlspool_broker.history import Change, Place, Values
from tlspool_broker.reading import Reading, Report, Source
from tlspool_broker.trustindex import TrustIndex
from tlspool_common.identity import Donai
from tlspool_common.messages import Side

T = TypeVar("T")


class Present(Protocol):
    """What a past wants to know of the databases."""

    @property
    def generation(self) -> int:
        """Number of the current state."""

    def history(self, first: int, last: int) -> list[Change]:
        """Return what made these generations."""

    def trust_index(self) -> TrustIndex:
        """Return the current trust database; not to be changed."""

    def at(self, generation: int) -> Past:
        """Return another past."""

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """Disclose one more identity, in the present."""

    def pin_add(self, remote: str, sha256: bytes, author: str, reason: str, side: Side) -> None:
        """Pin a certificate, in the present."""


class ReadView(Protocol):
    """Runs a function on the present."""

    def __call__(self, work: Callable[[View], T], /) -> T:
        """Return what the function returns."""


class _Overlaid:
    """A view with some keys as they were."""

    def __init__(self, view: View, was: dict[Place, Values]) -> None:
        self._view = view
        self._was = was

    def values(self, name: Name, key: bytes) -> list[bytes]:
        was = self._was.get((name, key))
        return self._view.values(name, key) if was is None else list(was)

    def has(self, name: Name, key: bytes) -> bool:
        was = self._was.get((name, key))
        return self._view.has(name, key) if was is None else bool(was)

    def items(self, name: Name) -> Iterable[tuple[bytes, list[bytes]]]:
        for key, values in self._view.items(name):
            if (name, key) not in self._was:
                yield key, values
        for (of, key), was in self._was.items():
            if of is name and was:
                yield key, list(was)


class Past(Reading):
    """Answers of an earlier generation; what is written goes to the present."""

    def __init__(self, present: Present, generation: int, read: ReadView, report: Report) -> None:
        super().__init__(self._read_then, report)
        self._present = present
        self._read_present = read
        self._seen = generation
        self._was: dict[Place, Values] = {}
        self.generation = generation

    @property
    def trust_generation(self) -> int:
        """A number under which nothing else is filed: the generation itself."""
        return self.generation

    def catch_up(self) -> None:
        """Look up what the present has changed since the last time.

        Raises:
            PoolError: GENERATION_UNKNOWN, the history has dropped it meanwhile.
        """
        current = self._present.generation
        if self._seen == current:
            return
        for change in self._present.history(self._seen + 1, current):
            for place, (before, _) in change.changes.items():
                self._was.setdefault(place, before)
        self._seen = current

    def _read_then(self, work: Callable[[Source], T]) -> T:
        self.catch_up()
        return self._read_present(lambda view: work(_Overlaid(view, self._was)))

    def _trusted(self) -> TrustIndex:
        if self._trust is None:
            self.catch_up()
            index = self._present.trust_index().copy()
            for (name, key), values in self._was.items():
                if name is Name.TRUST:
                    index.update(key, values)
            self._trust = index
        return self._trust

    def at(self, generation: int) -> Past:
        """Return another generation."""
        return self._present.at(generation)

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """Disclose one more identity, in the present."""
        return self._present.disclose_add(selector, localid, first=first, move=move)

    def pin_add(self, remote: str, sha256: bytes, author: str, reason: str, side: Side) -> None:
        """Pin a certificate, in the present."""
        self._present.pin_add(remote, sha256, author, reason, side)
