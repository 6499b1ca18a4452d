"""Requests that wait until somebody has typed a PIN, each for at most ``pin_wait_s`` in all.

They are in no process and in no queue of a seat meanwhile; their own deadline begins anew when they go on.
"""

from __future__ import annotations

from tlspool_keyd.events import Arm, Clock, Effect, Timer
from tlspool_keyd.seat import Job, Seat


class Patience:
    """The requests that wait for PINs."""

    def __init__(self, wait_ms: float) -> None:
        self._wait_ms = wait_ms
        self._jobs: dict[Job, Seat] = {}
        self._armed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def of(self, seat: Seat) -> list[Job]:
        """Return the requests that wait for a PIN of this seat."""
        return [job for job, its in self._jobs.items() if its is seat]

    def seats(self) -> list[Seat]:
        """Return the seats for whose PINs somebody waits."""
        return list(dict.fromkeys(self._jobs.values()))

    def add(self, seat: Seat, job: Job, now_ms: float) -> list[Effect]:
        """Let a request wait; one that has waited before has only the rest of its time."""
        if job.patience_ms is None:
            job.patience_ms = now_ms + self._wait_ms
        self._jobs[job] = seat
        return self._watch(now_ms)

    def take(self, seat: Seat) -> list[Job]:
        """Let the requests of a seat wait no more."""
        taken = self.of(seat)
        for job in taken:
            del self._jobs[job]
        return taken

    def expire(self, now_ms: float) -> tuple[list[Job], list[Effect]]:
        """The timer fired: return the requests that have waited long enough."""
        self._armed = False
        late = [job for job in self._jobs if (job.patience_ms or 0.0) <= now_ms]
        for job in late:
            del self._jobs[job]
        return late, self._watch(now_ms)

    def _watch(self, now_ms: float) -> list[Effect]:
        """Keep one timer running, for the request that has waited longest."""
        if self._armed or not self._jobs:
            return []
        self._armed = True
        first_ms = min(job.patience_ms or 0.0 for job in self._jobs)
        return [Arm(Timer(Clock.PIN), max(0.0, first_ms - now_ms))]
