"""How busy the broker is: what happened in the last minute, how late its loop is, and what each caller asked for.

Kept in rings of a fixed size, at the cost of an addition or two for each event.  The outcomes are taken from the lines
that go to the log, whether or not that level is written, so that the two cannot tell different stories.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tlspool_broker.events import Caller, Event, WorkerSaid
from tlspool_common import grants

WINDOW_S = 60
"""Rates are of the last minute: longer than the bursts of one client, shorter than a person's patience."""

LOOK_S = 0.25
"""Between two looks at how late the loop is: 240 in the window, at four wake-ups a second of an idle broker."""

CALLERS = 1000
"""Callers that are counted apart; of more, those that were heard of longest ago are forgotten with their counts."""

_OUTCOMES = {
    # event of the log: what is counted
    "session.start": "established",
    "session.refused": "refused",
    "session.failed": "failed",
    "session.end": "ended",
    "command.refused": "commands_refused",
}


@dataclass(slots=True)
class Tally:
    """What one caller has asked for since it was first heard of."""

    requests: int = 0
    established: int = 0
    refused: int = 0
    failed: int = 0
    ended: int = 0
    commands_refused: int = 0
    from_remote_b: int = 0
    to_remote_b: int = 0
    last_code: int = 0


def caller_key(uid: object, label: str) -> tuple[int, str]:
    """Return by what a caller is known: its user, and its unit or program without the number of the process."""
    return uid if isinstance(uid, int) else -1, label.rpartition("[")[0] or label


class Loads:
    """The counts.  No loop and no clock but the one it is given; ``Lag`` tells it how late the loop is."""

    def __init__(self, now_ms: Callable[[], int] = grants.now_ms) -> None:
        self._now_ms = now_ms
        self._seconds = [0] * WINDOW_S
        self._counts: list[Counter[str]] = [Counter() for _ in range(WINDOW_S)]
        self._began_ms = now_ms()
        self._lags: deque[tuple[int, float]] = deque(maxlen=int(WINDOW_S / LOOK_S))
        self._callers: OrderedDict[tuple[int, str], Tally] = OrderedDict()

    # --- what happens ---------------------------------------------------------------------------------

    def saw(self, event: Event) -> None:
        """Something happened to the core."""
        counts = self._now()
        counts["events"] += 1
        if isinstance(event, WorkerSaid):
            counts["from_workers"] += 1

    def asked(self, caller: Caller) -> None:
        """An application sent a frame."""
        self._now()["requests"] += 1
        self._of(caller.uid, caller.label).requests += 1

    def noted(self, name: str, fields: Mapping[str, object]) -> None:
        """A line for the log was written, or would have been at another level."""
        what = _OUTCOMES.get(name)
        if what is None:
            return
        counts, tally = self._now(), self._of(fields.get("uid"), str(fields.get("caller", "")))
        counts[what] += 1
        setattr(tally, what, getattr(tally, what) + 1)
        code = fields.get("code")
        if isinstance(code, int):
            tally.last_code = code
        for field in ("from_remote_b", "to_remote_b"):
            size_b = fields.get(field)
            if isinstance(size_b, int):
                counts[field] += size_b
                setattr(tally, field, getattr(tally, field) + size_b)

    def lagged(self, lag_ms: float) -> None:
        """The loop was so late."""
        self._lags.append((self._now_ms(), lag_ms))

    def _now(self) -> Counter[str]:
        second = self._now_ms() // 1000
        place = second % WINDOW_S
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._counts[place].clear()
        return self._counts[place]

    def _of(self, uid: object, label: str) -> Tally:
        key = caller_key(uid, label)
        tally = self._callers.get(key)
        if tally is None:
            if len(self._callers) >= CALLERS:
                self._callers.popitem(last=False)
            tally = self._callers[key] = Tally()
        else:
            self._callers.move_to_end(key)
        return tally

    # --- what is told ---------------------------------------------------------------------------------

    @property
    def callers(self) -> Mapping[tuple[int, str], Tally]:
        """What each caller has asked for."""
        return self._callers

    def totals(self) -> Counter[str]:
        """Return what was counted in the window."""
        oldest = self._now_ms() // 1000 - WINDOW_S
        total: Counter[str] = Counter()
        for second, counts in zip(self._seconds, self._counts, strict=True):
            if second > oldest:
                total.update(counts)
        return total

    def describe(self) -> dict[str, object]:
        """Return rates and delays as the operator's socket shows them."""
        now_ms = self._now_ms()
        totals = self.totals()
        window_s = min(float(WINDOW_S), max(1.0, (now_ms - self._began_ms) / 1000))
        lags = sorted(lag for at_ms, lag in self._lags if at_ms > now_ms - WINDOW_S * 1000)
        rates = {f"{name}_per_s": round(totals[name] / window_s, 2) for name in ("events", "requests", "established")}
        return {
            "window_s": round(window_s, 1),
            **rates,
            "outcomes": {name: totals[name] for name in _OUTCOMES.values()},
            "ended_bytes": {name: totals[name] for name in ("from_remote_b", "to_remote_b")},
            "lag_ms": {"p50": _part(lags, 0.5), "p99": _part(lags, 0.99), "max": _part(lags, 1.0)},
        }


def _part(values: list[float], part: float) -> float:
    return round(values[min(len(values) - 1, int(len(values) * part))], 2) if values else 0.0


class Lag:
    """Measures how late the running loop is, by a timer that should fire at regular times."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._loop = asyncio.get_running_loop()
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def close(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._due_s = self._loop.time() + LOOK_S
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        self._loads.lagged(max(0.0, (self._loop.time() - self._due_s) * 1000))
        self._arm()
