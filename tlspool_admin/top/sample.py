"""One look at a pool: what its daemons say now, and what that is in comparison with the last time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tlspool_admin.commands.daemons import joined
from tlspool_admin.table import objects
from tlspool_admin.verdict import DAEMONS, Level, gather, judge, sentence

_REQUESTS = {
    # one answer each; what is behind the name of the daemon is the request, by its own name
    **dict.fromkeys(DAEMONS, "status"),
    "broker loads": "loads",
    "broker callers": "callers",
    "broker workers": "workers",
    "keyd queue": "queue",
}

SESSIONS = 500
"""Sessions in a live list, the oldest first; who looks for one among more than that gives a filter."""

_ASK_S = 2.0
"""For a daemon to answer: one that hangs must not stop the view."""

Rows = list[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A look."""

    at_s: float
    answers: Mapping[str, Mapping[str, object]]
    tables: Mapping[str, Rows]
    level: Level
    headline: str
    reasons: list[str] = field(default_factory=list)


def take(run_dir: Path, words: list[str], before: Sample | None = None) -> Sample:
    """Ask all daemons; ``words`` pick sessions.  Nothing that a daemon does, or does not do, makes this raise."""
    answers = gather(run_dir, _REQUESTS, _ASK_S)
    request: dict[str, object] = {"cmd": "sessions", "limit": SESSIONS}
    for word in words:
        name, _, value = word.partition("=")
        request[name] = value
    listed = gather(run_dir, {"broker": request}, _ASK_S)["broker"]
    level, reasons = judge(answers)
    if listed.get("ok") is not True and answers["broker"].get("ok") is True:
        reasons = [*reasons, str(listed.get("error"))]
    now_s = time.monotonic()
    processes = joined(objects(answers["worker"].get("workers")), objects(answers["broker workers"].get("workers")))
    tables: dict[str, Rows] = {
        "sessions": objects(listed.get("sessions")),
        "callers": objects(answers["broker callers"].get("callers")),
        "workers": [_with_load(row, now_s, before) for row in processes],
        "tokens": objects(answers["keyd queue"].get("queue")),
    }
    return Sample(now_s, answers, tables, level, sentence(level, answers), reasons)


def _with_load(row: dict[str, object], now_s: float, before: Sample | None) -> dict[str, object]:
    """Add what part of a processor a worker has had since the last look."""
    spent = row.pop("cpu_s", None)
    then = next((one for one in before.tables["workers"] if one.get("pid") == row.get("pid")), None) if before else None
    share = 0.0
    if before is not None and then is not None and isinstance(spent, float | int):
        earlier = then.get("cpu_s")
        if isinstance(earlier, float | int) and now_s > before.at_s:
            share = max(0.0, 100 * (spent - earlier) / (now_s - before.at_s))
    first = {name: row.pop(name) for name in ("worker", "pid", "sessions") if name in row}
    return {**first, "cpu_percent": round(share, 1), **row, "cpu_s": spent}
