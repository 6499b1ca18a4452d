"""So many of a kind in a second, and a count of the others: for what somebody else can make happen."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Ration:
    """Counts events by name."""

    def __init__(self, most: int, clock_s: Clock = time.monotonic) -> None:
        self._most = most
        self._clock_s = clock_s
        self._second = 0
        self._counts: dict[str, int] = {}
        self._withheld: dict[str, int] = {}

    def allows(self, name: str) -> bool:
        """Count one; say whether there is room for it in this second."""
        self._turn()
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return count <= self._most

    def withheld(self) -> dict[str, int]:
        """Return how many of which were refused in seconds that are over, once."""
        self._turn()
        if not self._withheld:
            return {}
        withheld, self._withheld = self._withheld, {}
        return withheld

    def _turn(self) -> None:
        second = int(self._clock_s())
        if second != self._second:
            self._second = second
            for name, count in self._counts.items():
                if count > self._most:
                    self._withheld[name] = self._withheld.get(name, 0) + count - self._most
            self._counts.clear()
