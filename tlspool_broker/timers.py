"""Many timers of which few ever fire, at the cost of one of the loop's.

A session arms its timer anew with each state, and nearly always disarms it in the end.  So nothing is undone: what
counts is when a timer is due by now (``_due``), and an entry of the heap is only a reason to look (``_looks``).  An
entry whose timer was disarmed, or is due later by now, is dropped or put back when its time comes.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from tlspool_broker.events import Timer

_STALE = 1024
"""Entries beyond twice the timers, before the heap is made anew: sessions of seconds leave a second's worth each."""


class Timers:
    """Calls ``fired`` with each timer that is due."""

    def __init__(self, fired: Callable[[Timer], None]) -> None:
        self._fired = fired
        self._loop = asyncio.get_running_loop()
        self._due: dict[Timer, float] = {}
        self._looks: dict[Timer, float] = {}
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def arm(self, timer: Timer, delay_ms: float) -> None:
        """Let a timer fire after so long, and not when it was going to."""
        due_s = self._loop.time() + delay_ms / 1000
        self._due[timer] = due_s
        look_s = self._looks.get(timer)
        if look_s is None or due_s < look_s:
            self._look_at(timer, due_s)

    def disarm(self, timer: Timer) -> None:
        """Let a timer not fire."""
        self._due.pop(timer, None)

    def close(self) -> None:
        """Let none fire any more."""
        self._due.clear()
        self._looks.clear()
        self._heap.clear()
        self._wait()

    def _look_at(self, timer: Timer, due_s: float) -> None:
        self._looks[timer] = due_s
        self._count += 1
        heapq.heappush(self._heap, (due_s, self._count, timer))
        if len(self._heap) > 2 * len(self._due) + _STALE:
            self._renew()
        if self._heap[0][0] >= due_s:
            self._wait()

    def _renew(self) -> None:
        self._looks = dict(self._due)
        self._heap = [(due_s, number, timer) for number, (timer, due_s) in enumerate(self._due.items())]
        heapq.heapify(self._heap)
        self._count = len(self._heap)
        self._wait()

    def _wait(self) -> None:
        """Have the loop call at the time of the first entry that still has a meaning."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        while self._heap:
            look_s, _, timer = self._heap[0]
            if self._looks.get(timer) == look_s:
                if timer in self._due:
                    self._handle = self._loop.call_at(look_s, self._look)
                    return
                del self._looks[timer]
            heapq.heappop(self._heap)

    def _look(self) -> None:
        self._handle = None
        now_s = self._loop.time()
        late: list[tuple[Timer, float]] = []
        while self._heap and self._heap[0][0] <= now_s:
            look_s, _, timer = heapq.heappop(self._heap)
            if self._looks.get(timer) != look_s:
                continue  # there was an earlier entry
            del self._looks[timer]
            due_s = self._due.get(timer)
            if due_s is not None and due_s <= now_s:
                late.append((timer, due_s))
            elif due_s is not None:
                self._look_at(timer, due_s)
        self._wait()
        for timer, due_s in late:
            if self._due.get(timer) == due_s:  # the one before may have disarmed it
                del self._due[timer]
                self._fired(timer)
