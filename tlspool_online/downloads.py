"""Which downloads run, and which wait: so many of each kind at once, and so many from one host."""

from __future__ import annotations

from collections import Counter, deque

from tlspool_online import bounds
from tlspool_online.events import Effect, Fetch, Kind
from tlspool_online.sources import Source


class Downloads:
    """The downloads of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._running: dict[int, tuple[Source, str]] = {}
        self._of_host: Counter[str] = Counter()
        self._waiting: deque[tuple[Source, str, Fetch]] = deque()

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether nothing more is taken."""
        return len(self._waiting) >= bounds.WAITING

    def start(self, source: Source, host: str, fetch: Fetch) -> list[Effect]:
        """Download now, or when there is room."""
        self._waiting.append((source, host, fetch))
        return self._next()

    def source(self, number: int) -> Source:
        """Return the source that a download is for."""
        return self._running[number][0]

    def ended(self, number: int) -> tuple[Source, list[Effect]]:
        """A download is over, and what came of it was looked at: return its source, and start others."""
        source, host = self._running.pop(number)
        self._of_host[host] -= 1
        if not self._of_host[host]:
            del self._of_host[host]
        return source, self._next()

    def _next(self) -> list[Effect]:
        started: list[Effect] = []
        for at in range(len(self._waiting)):
            if len(self._running) >= bounds.AT_ONCE:
                break
            source, host, fetch = self._waiting[at - len(started)]
            if self._of_host[host] < bounds.AT_ONCE_OF_HOST:
                del self._waiting[at - len(started)]
                self._running[fetch.number] = (source, host)
                self._of_host[host] += 1
                started.append(fetch)
        self._of_host += Counter()  # drops hosts that were only looked at
        return started
